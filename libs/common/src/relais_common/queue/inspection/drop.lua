-- Forget a dead letter's request. O(dead letters).
-- KEYS[1] base
-- ARGV: id
-- Returns 1, or 0 where it is no dead letter
local id = ARGV[1]
local status, dropped = unpack(redis.call('HMGET', job_key(id), 'status', 'dropped'))
local whole = redis.call('HEXISTS', job_key(id), 'payload') == 1
if dropped and not whole then return 1 end
if status ~= 'failed' or not whole then return 0 end
redis.call('HSET', job_key(id), 'dropped', 1)
redis.call('LREM', DEAD, 0, id)
forget_letter(id)
return 1
