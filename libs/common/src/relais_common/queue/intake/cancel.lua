-- End a waiting job, or ask the holder of a running one to end it. O(1) on average.
-- KEYS[1] base
-- ARGV: id, reason, cancelled line
-- Returns the status after the call, or false if the job is unknown
local id, reason, line = unpack(ARGV)
local status = redis.call('HGET', job_key(id), 'status')
if status == 'queued' then
  conclude(id, 'cancelled', {line}, '', true)
  return 'cancelled'
end
if status == 'running' then ask_to_stop(id, reason) end
return status
