-- Forget records that the database has. O(records).
-- KEYS[1] base
-- ARGV: entry ids
-- Returns how many were still there
local there = 0
for at = 1, #ARGV, 1000 do
  local ids = {unpack(ARGV, at, math.min(at + 999, #ARGV))}
  redis.call('XACK', TRACES, WRITERS, unpack(ids))
  there = there + redis.call('XDEL', TRACES, unpack(ids))
end
return there
