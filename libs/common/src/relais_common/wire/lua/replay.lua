-- Queue a dead letter's request anew, on a channel of its own: the old one has had its last event.
-- KEYS[1] base
-- ARGV: dead letter's id, max_waiting, then as `enqueue`: id, payload, key_id, operation, priority, on_disconnect,
--       deadline_s, log_ttl_s, result_ttl_s, watch_grace_s, on_worker_loss. Its trace is kept as the old one's was
-- Returns {'accepted' | 'duplicate', id, status, position, wait} | {'full', waiting, wait}, or false where it is no dead
-- letter (any more)
local letter, max_waiting, id = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local key = job_key(letter)
local status, replayed_as, trace = unpack(redis.call('HMGET', key, 'status', 'replayed_as', 'trace'))
if replayed_as then return redis.call('EXISTS', job_key(replayed_as)) == 1 and known(replayed_as) end
if status ~= 'failed' or redis.call('HEXISTS', key, 'payload') == 0 then return false end
local full = why_full(max_waiting, 1)
if full then return full end

local arguments = {unpack(ARGV, 3, 13)}
arguments[#arguments + 1] = trace or ''
arguments[#arguments + 1] = 0
local at, wait = admit(unpack(arguments))
redis.call('HSET', key, 'replayed_as', id)
redis.call('HDEL', key, 'payload')
fade_anew(letter, redis.call('TTL', key))
redis.call('LREM', DEAD, 0, letter)
return {'accepted', id, 'queued', at, wait}
