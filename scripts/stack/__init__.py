"""One machine's Relais: start the processes under supervisord, wait for them, watch them, stop them.

Standard library only, so that `down` and `status` work whatever became of the environment.
"""
