"""Infrastructure of every Relais process: environment, logs, health, metrics, tasks, HTTP servers."""
