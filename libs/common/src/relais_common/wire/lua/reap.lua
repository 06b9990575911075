-- What anyone may do for jobs whose holder, time or reader is gone. Safe to run by many at once.
-- KEYS[1] base
-- ARGV: limit, max_failures, expired line, disconnected line, cancelled line, worker-lost line, dead letters kept,
--       seconds a dead letter is kept
-- Returns {requeued, ended}
local limit, max_failures = tonumber(ARGV[1]), tonumber(ARGV[2])
local expired_line, disconnected_line, cancelled_line, lost_line = unpack(ARGV, 3, 6)
local requeued, ended = 0, 0

local function due(key) return redis.call('ZRANGEBYSCORE', key, '-inf', seconds(NOW), 'LIMIT', 0, limit) end

-- 1. Nobody reads the stream, and the request said that this ends it.
for _, id in ipairs(due(WATCHED)) do
  redis.call('ZREM', WATCHED, id)
  local status = redis.call('HGET', job_key(id), 'status')
  if status == 'queued' then
    conclude(id, 'cancelled', disconnected_line, '', true)
    ended = ended + 1
  elseif status == 'running' then
    ask_to_stop(id, 'disconnect')
  end
end

-- 2. Its time is up.
for _, id in ipairs(due(DEADLINES)) do
  redis.call('ZREM', DEADLINES, id)
  local status = redis.call('HGET', job_key(id), 'status')
  if status == 'queued' then
    conclude(id, 'expired', expired_line, '', true)
    ended = ended + 1
  elseif status == 'running' then
    ask_to_stop(id, 'deadline')
  end
end

-- 3. Its holder stopped renewing. Only a crash in which the engine had the job and gave nothing counts against it.
for _, id in ipairs(due(INFLIGHT)) do
  local key = job_key(id)
  local status, stop, engaged, progressed = unpack(redis.call('HMGET', key, 'status', 'stop', 'engaged', 'progressed'))
  if status ~= 'running' then
    redis.call('ZREM', INFLIGHT, id)
  elseif stop then
    conclude_stopped(id, stop, expired_line, disconnected_line, cancelled_line)
    ended = ended + 1
  elseif engaged and not progressed
      and redis.call('HINCRBY', key, 'failures', 1) >= max_failures then
    local payload = redis.call('HGET', key, 'payload')
    conclude(id, 'failed', lost_line, '', false)
    redis.call('HSET', key, 'payload', payload)
    redis.call('EXPIRE', key, ARGV[8])
    redis.call('LPUSH', DEAD, id)
    redis.call('LTRIM', DEAD, 0, tonumber(ARGV[7]) - 1)
    redis.call('EXPIRE', DEAD, ARGV[8])
    ended = ended + 1
  else
    requeue(id)
    requeued = requeued + 1
  end
end
if requeued > 0 then ring() end
return {requeued, ended}
