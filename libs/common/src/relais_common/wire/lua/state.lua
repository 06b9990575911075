-- Where a channel stands. O(1).
-- KEYS[1] base
-- ARGV: id
-- Returns false | {key_id, operation, status, on_disconnect, position, wait, tail, accepted_at, started_at,
--                  finished_at, text, outcome, replayed_as}
local id = ARGV[1]
local owner, operation, status, on_disconnect, tail, accepted_at, started_at, finished_at, text, outcome,
  replayed_as =
  unpack(redis.call('HMGET', job_key(id), 'key_id', 'operation', 'status', 'on_disconnect', 'tail',
  'accepted_at', 'started_at', 'finished_at', 'text', 'outcome', 'replayed_as'))
if not status then return false end
local at = place(id)
return {owner, operation, status, on_disconnect, at, at > 0 and estimated_wait(at) or '',
  tonumber(tail) or redis.call('LLEN', log_key(id)), accepted_at, started_at or '', finished_at or '',
  text or false, outcome or false, replayed_as or false}
