-- Forget an ended job with all that it has left. One that has not ended is unknown to clients from here on, and goes a minute
-- after its end. What is held of it is counted until it would have expired. O(events of its log).
-- KEYS[1] base
-- ARGV: id
-- Returns 1, or 0 if the job is unknown
local id = ARGV[1]
local key = job_key(id)
local status, finished_at, idempotency = unpack(redis.call('HMGET', key, 'status', 'finished_at', 'idempotency'))
if not status then return 0 end
if finished_at then
  redis.call('DEL', base .. ':vectors:' .. id, log_key(id), key)
else
  -- A repeated call is another request, whose name its end must not touch.
  if idempotency then redis.call('DEL', idempotency) end
  redis.call('HDEL', key, 'record', 'record_input', 'stored', 'idempotency')
  redis.call('HSET', key, 'forgotten', 1, 'log_ttl_s', 60, 'result_ttl_s', 60)
end
return 1
