"""What every process of Relais needs, whatever it does: environment, logs, health, metrics, tasks, servers."""
