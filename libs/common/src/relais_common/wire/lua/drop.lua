-- Forget a dead letter's request. O(dead letters).
-- KEYS[1] base
-- ARGV: id
-- Returns 1, or 0 where it is no dead letter
local id = ARGV[1]
local status, dropped = unpack(redis.call('HMGET', job_key(id), 'status', 'dropped'))
if dropped then return 1 end
if status ~= 'failed' or redis.call('HEXISTS', job_key(id), 'payload') == 0 then return 0 end
redis.call('HSET', job_key(id), 'dropped', 1)
forget_letter(id)
redis.call('LREM', DEAD, 0, id)
return 1
