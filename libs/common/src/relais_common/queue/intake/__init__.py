"""An orchestrator's steps: enqueue, state, watch, cancel."""
