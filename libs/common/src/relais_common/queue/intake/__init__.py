"""What an orchestrator does with jobs: enqueue, look, watch, cancel."""
