-- Somebody reads this channel.
-- KEYS[1] base
-- ARGV: id, lease_s, watcher: the orchestrator that says so ('' where it has no presence)
local id, lease_s, watcher = unpack(ARGV)
if not redis.call('ZSCORE', WATCHED, id) then return 0 end
redis.call('ZADD', WATCHED, 'XX', seconds(NOW + tonumber(lease_s)), id)
note_watcher(id, watcher)
return 1
