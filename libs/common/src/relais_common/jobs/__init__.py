"""What a request is: the job, its events, its channel, its errors, and the record it leaves. Frozen types, no I/O."""
