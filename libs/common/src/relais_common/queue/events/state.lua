-- Where a channel stands, with its text or with some of its events. O(1), but for those.
-- KEYS[1] base
-- ARGV: id [, first, last]: of the events, as LRANGE counts
-- Returns false | {key_id, operation, status, on_disconnect, position, wait, tail, accepted_at, started_at,
--                  finished_at, outcome, replayed_as, text or events}
local id, first, last = unpack(ARGV)
local owner, operation, status, on_disconnect, tail, accepted_at, started_at, finished_at, text, outcome,
  replayed_as, forgotten =
  unpack(redis.call('HMGET', job_key(id), 'key_id', 'operation', 'status', 'on_disconnect', 'tail',
  'accepted_at', 'started_at', 'finished_at', 'text', 'outcome', 'replayed_as', 'forgotten'))
if not status or forgotten then return false end
local at, told = place(id)
return {owner, operation, status, on_disconnect, told, at > 0 and estimated_wait(at) or '',
  tonumber(tail) or redis.call('LLEN', log_key(id)), accepted_at, started_at or '', finished_at or '',
  outcome or false, replayed_as or false,
  first and redis.call('LRANGE', log_key(id), first, last) or text or false}
