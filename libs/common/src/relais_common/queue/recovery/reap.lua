-- What anyone may do for jobs whose holder, time or reader is gone. Safe to run by many at once.
-- KEYS[1] base
-- ARGV: limit, then `parting` of let_go: seconds a dead letter is kept, dead letters kept, max_failures, expired line,
--       disconnected line, cancelled line, worker-lost line; then when it is too late for this pass
-- Returns {requeued, ended, what went wrong ('' for nothing)}, or false where it came too late: the living could not renew
-- meanwhile
local limit, parting = tonumber(ARGV[1]), {unpack(ARGV, 2, 8)}
local expired_line, disconnected_line = ARGV[5], ARGV[6]
local requeued, ended, drifted, problem = 0, 0, false, nil
if NOW > tonumber(ARGV[9]) then return false end

local function due(key) return redis.call('ZRANGEBYSCORE', key, '-inf', seconds(NOW), 'LIMIT', 0, limit) end

-- What one job does to a step holds up no other.
local function attempt(step, ...)
  local done, why = pcall(step, ...)
  if not done then
    drifted, problem = true, problem or (type(why) == 'table' and why.err or tostring(why))
  end
end

-- An image that expired before its jobs ended, or that a process of another version did not release.
local image = redis.call('SRANDMEMBER', IMAGES)
if image and redis.call('EXISTS', image_named(image)) == 0 then drifted = true end
if redis.call('HGET', COUNTS, 'drifted') then attempt(mend) end
attempt(redo, limit)

-- An orchestrator that stalls, or whose machine is frozen, renews nothing but keeps its connections; one that has died
-- loses them. Its readers may still be there as long as it is.
local LOOK_AGAIN_S, present = 5, {}
local function may_be_read(id)
  for watcher in string.gmatch(redis.call('HGET', job_key(id), 'watchers') or '', '%S+') do
    if present[watcher] == nil then
      present[watcher] = redis.call('PUBSUB', 'NUMSUB', base .. ':presence:' .. watcher)[2] > 0
    end
    if present[watcher] then return true end
  end
  return false
end

-- 1. Nobody reads the stream, and the request said that this ends it.
local function end_unread(id)
  if may_be_read(id) then
    redis.call('ZADD', WATCHED, seconds(NOW + LOOK_AGAIN_S), id)
    return
  end
  local status = redis.call('HGET', job_key(id), 'status')
  if status == 'queued' then
    conclude(id, 'cancelled', {disconnected_line}, '', true)
    ended = ended + 1
  elseif status == 'running' then
    ask_to_stop(id, 'disconnect')
  end
  redis.call('ZREM', WATCHED, id)
end

-- 2. Its time is up.
local function end_late(id)
  local status = redis.call('HGET', job_key(id), 'status')
  if status == 'queued' then
    conclude(id, 'expired', {expired_line}, '', true)
    ended = ended + 1
  elseif status == 'running' then
    ask_to_stop(id, 'deadline')
  elseif not status then
    drifted = true
  end
  redis.call('ZREM', DEADLINES, id)
end

-- 3. Its holder stopped renewing.
local function take_back(id)
  local status, lease_s = unpack(redis.call('HMGET', job_key(id), 'status', 'lease_s'))
  if status ~= 'running' then
    redis.call('ZREM', INFLIGHT, id)
  elseif let_go(id, true, parting, redis.call('ZSCORE', INFLIGHT, id) - (lease_s or 0)) then
    requeued = requeued + 1
  else
    ended = ended + 1
  end
end

for _, id in ipairs(due(WATCHED)) do attempt(end_unread, id) end
for _, id in ipairs(due(DEADLINES)) do attempt(end_late, id) end
for _, id in ipairs(due(INFLIGHT)) do attempt(take_back, id) end
attempt(forget_faded, limit)
if drifted then
  redis.call('HSET', COUNTS, 'drifted', 1)
  attempt(mend)
end
if requeued > 0 then ring() end
return {requeued, ended, problem or ''}
