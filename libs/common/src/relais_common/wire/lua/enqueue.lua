-- Accept a job. O(1).
-- KEYS[1] base
-- ARGV: id, payload, key_id, operation, priority, on_disconnect ('continue' | 'cancel'), deadline_s, log_ttl_s,
--       result_ttl_s, watch_grace_s, max_waiting, max_inflight_per_key (0 for any number),
--       idempotency key ('' for none), body hash
-- Returns {'accepted' | 'duplicate', id, status, position, wait} | {'conflict'}
--         | {'full', waiting, wait} | {'key_full', open, wait}
local id, payload, owner, operation, priority, on_disconnect = unpack(ARGV, 1, 6)
local deadline_s, log_ttl_s, result_ttl_s, watch_grace_s = unpack(ARGV, 7, 10)
local max_waiting, max_open, idempotency, body_hash = tonumber(ARGV[11]), tonumber(ARGV[12]), ARGV[13], ARGV[14]

local function known(other)
  -- A write, though of nothing new: whoever waits for the disk waits for the last write on this connection.
  redis.call('HSET', job_key(other), 'key_id', owner)
  local at = place(other)
  return {'duplicate', other, redis.call('HGET', job_key(other), 'status'), at,
    at > 0 and estimated_wait(at) or ''}
end

if redis.call('EXISTS', job_key(id)) == 1 then return known(id) end
if idempotency ~= '' then
  local first = redis.call('GET', idempotency)
  if first then
    local other, hash = string.match(first, '^(%S+) (%S+)$')
    if hash ~= body_hash then return {'conflict'} end
    if redis.call('EXISTS', job_key(other)) == 1 then return known(other) end
  end
end
local waiting, open = count('waiting'), tonumber(redis.call('HGET', OPEN, owner) or '0')
-- When a tenth has been served there is room again for those who come back.
if waiting >= max_waiting then return {'full', waiting, estimated_wait(math.max(1, waiting / 10))} end
if max_open > 0 and open >= max_open then return {'key_full', open, estimated_wait(1)} end

local key, lane = job_key(id), lane_key(priority, owner)
local gone_s = math.ceil(tonumber(deadline_s) + tonumber(result_ttl_s) + 3600)
local seq = redis.call('HINCRBY', COUNTS, lane_field(priority, owner, 'pushed'), 1)
redis.call('HSET', key, 'payload', payload, 'key_id', owner, 'operation', operation, 'priority', priority,
  'on_disconnect', on_disconnect, 'status', 'queued', 'fence', 0, 'failures', 0, 'takes', 0, 'seq', seq,
  'order', redis.call('HINCRBY', COUNTS, 'order', 1), 'accepted_at', seconds(NOW),
  'deadline_at', seconds(NOW + tonumber(deadline_s)), 'log_ttl_s', log_ttl_s, 'result_ttl_s', result_ttl_s)
-- No key lives for ever, even if nobody is left to end the job.
redis.call('EXPIRE', key, gone_s)
if redis.call('RPUSH', lane, id) == 1 then redis.call('RPUSH', turns_key(priority), owner) end
count_waiting(priority, 1)
count_open(owner, 1)
redis.call('ZADD', DEADLINES, seconds(NOW + tonumber(deadline_s)), id)
if on_disconnect == 'cancel' then
  redis.call('ZADD', WATCHED, seconds(NOW + tonumber(watch_grace_s)), id)
end
if idempotency ~= '' then redis.call('SET', idempotency, id .. ' ' .. body_hash, 'EX', gone_s) end
local at = place(id)
local wait = estimated_wait(at)
append(id, 1, {string.format('queued {"queue_position":%d,"estimated_wait_s":%s}', at,
  wait == '' and 'null' or wait)})
redis.call('EXPIRE', log_key(id), gone_s)
ring()
return {'accepted', id, 'queued', at, wait}
