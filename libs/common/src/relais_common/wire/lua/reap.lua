-- What anyone may do for jobs whose holder, time or reader is gone. Safe to run by many at once.
-- KEYS[1] base
-- ARGV: limit, then `parting` of let_go: seconds a dead letter is kept, dead letters kept, max_failures, expired line,
--       disconnected line, cancelled line, worker-lost line; then when it is too late for this pass
-- Returns {requeued, ended}, or false where it came too late: the living could not renew meanwhile
local limit, parting = tonumber(ARGV[1]), {unpack(ARGV, 2, 8)}
local expired_line, disconnected_line = ARGV[5], ARGV[6]
local requeued, ended, drifted = 0, 0, false
if NOW > tonumber(ARGV[9]) then return false end

local function due(key) return redis.call('ZRANGEBYSCORE', key, '-inf', seconds(NOW), 'LIMIT', 0, limit) end

-- Jobs whose keys expired before anybody ended them are still counted: count again what is there. O(waiting).
local function recount()
  local kinds, held = {waiting = 0, bytes = 0}, {}
  redis.call('DEL', OPEN, RUNNING)
  for _, priority in ipairs(PRIORITIES) do
    kinds['waiting:' .. priority] = 0
  end
  local function note_held(owner, bytes)
    kinds.bytes = kinds.bytes + bytes
    held[owner] = (held[owner] or 0) + bytes
  end
  local function note_waiting(priority, owner, jobs, bytes)
    kinds.waiting = kinds.waiting + jobs
    kinds['waiting:' .. priority] = kinds['waiting:' .. priority] + jobs
    note_held(owner, bytes)
    count_open(owner, jobs)
  end
  for _, priority in ipairs(PRIORITIES) do
    for _, owner in ipairs(redis.call('LRANGE', turns_key(priority), 0, -1)) do
      note_waiting(priority, owner, sweep(priority, owner))
    end
  end
  for _, id in ipairs(redis.call('LRANGE', SUSPECTS, 0, -1)) do
    local priority, owner, bytes = unpack(redis.call('HMGET', job_key(id), 'priority', 'key_id', 'bytes'))
    if owner then
      note_waiting(priority, owner, 1, tonumber(bytes or '0'))
    else
      redis.call('LREM', SUSPECTS, 1, id)
    end
  end
  for _, id in ipairs(redis.call('ZRANGE', INFLIGHT, 0, -1)) do
    local owner, bytes = unpack(redis.call('HMGET', job_key(id), 'key_id', 'bytes'))
    if owner then
      count_open(owner, 1)
      count_running(owner, 1)
      note_held(owner, tonumber(bytes or '0'))
    else
      redis.call('ZREM', INFLIGHT, id)
    end
  end
  for _, at in ipairs(redis.call('ZRANGE', FADING, 0, -1)) do
    local sums = redis.call('HGETALL', span_key(at))
    for i = 1, #sums, 2 do
      if sums[i] ~= '' then note_held(sums[i], tonumber(sums[i + 1])) end
    end
  end
  redis.call('DEL', HELD)
  for owner, bytes in pairs(held) do
    if bytes > 0 then redis.call('HSET', HELD, owner, bytes) end
  end
  for field, value in pairs(kinds) do redis.call('HSET', COUNTS, field, value) end
end

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
for _, id in ipairs(due(WATCHED)) do
  local read = may_be_read(id)
  if read then
    redis.call('ZADD', WATCHED, seconds(NOW + LOOK_AGAIN_S), id)
  else
    redis.call('ZREM', WATCHED, id)
  end
  local status = not read and redis.call('HGET', job_key(id), 'status')
  if status == 'queued' then
    conclude(id, 'cancelled', {disconnected_line}, '', true)
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
    conclude(id, 'expired', {expired_line}, '', true)
    ended = ended + 1
  elseif status == 'running' then
    ask_to_stop(id, 'deadline')
  elseif not status then
    drifted = true
  end
end

-- 3. Its holder stopped renewing.
for _, id in ipairs(due(INFLIGHT)) do
  local status, lease_s = unpack(redis.call('HMGET', job_key(id), 'status', 'lease_s'))
  if status ~= 'running' then
    redis.call('ZREM', INFLIGHT, id)
  elseif let_go(id, true, parting, redis.call('ZSCORE', INFLIGHT, id) - (lease_s or 0)) then
    requeued = requeued + 1
  else
    ended = ended + 1
  end
end
if drifted then recount() end
forget_faded(limit)
if requeued > 0 then ring() end
return {requeued, ended}
