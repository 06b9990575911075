-- Forget a dead letter's request. How it ended is remembered as long as any other end, a minute at least, so that the
-- same call gets the same answer. O(dead letters).
-- KEYS[1] base
-- ARGV: id
-- Returns 1, or 0 where it is no dead letter
local id = ARGV[1]
local key = job_key(id)
local status, dropped, finished_at, result_ttl = unpack(redis.call('HMGET', key,
  'status', 'dropped', 'finished_at', 'result_ttl_s'))
if dropped then return 1 end
if status ~= 'failed' or redis.call('HEXISTS', key, 'payload') == 0 then return 0 end
redis.call('HSET', key, 'dropped', 1)
redis.call('HDEL', key, 'payload')
redis.call('EXPIRE', key, math.max(60, math.ceil(tonumber(finished_at) + tonumber(result_ttl) - NOW)))
redis.call('LREM', DEAD, 0, id)
return 1
