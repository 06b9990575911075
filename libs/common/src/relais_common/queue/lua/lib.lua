-- What scripts share that take jobs in, hand them on or end them. After core.lua,
-- journal.lua, accounts.lua, traces.lua, stored.lua and images.lua.

local function lane_field(priority, owner, name)
  return 'lane:' .. priority .. ':' .. owner .. ':' .. name
end

-- A key has a turn as long as a job of its own waits in the lane; a priority nobody waits in ages no more.
local function forget_lane(priority, owner)
  redis.call('DEL', lane_key(priority, owner))
  redis.call('LREM', turns_key(priority), 0, owner)
  redis.call('HDEL', COUNTS, lane_field(priority, owner, 'pushed'),
    lane_field(priority, owner, 'popped'), lane_field(priority, owner, 'tombstones'))
  if redis.call('EXISTS', turns_key(priority)) == 0 then
    redis.call('HDEL', COUNTS, 'passed:' .. priority)
  end
end

local function count_alive(priority, owner)
  return redis.call('LLEN', lane_key(priority, owner)) - count(lane_field(priority, owner, 'tombstones'))
end

-- Capped: a ring that nobody hears must not pile up, and one that is heard leads to a take that rings on.
local MOST_RINGS = 16
local function wakeup_of(worker) return WAKEUP .. ':' .. worker end
-- `worker`: the one to wake; nil for any. Returns how many rings are there then.
local function ring(times, worker)
  local bell, rings = worker and wakeup_of(worker) or WAKEUP, {}
  for at = 1, math.min(times or 1, MOST_RINGS) do rings[at] = '1' end
  if #rings == 0 then return 0 end
  local length = redis.call('LPUSH', bell, unpack(rings))
  if length > MOST_RINGS then redis.call('LTRIM', bell, 0, MOST_RINGS - 1) end
  if length == #rings then redis.call('EXPIRE', bell, worker and 60 or 3600) end
  return length
end

-- Add to several of a model's counts, in one write; returns what they are then. `changes`: field, by, field, by, ...
local function add_to_counts(changes)
  local fields, sums = {}, {}
  for at = 1, #changes, 2 do fields[#fields + 1] = changes[at] end
  local found = redis.call('HMGET', COUNTS, unpack(fields))
  for at = 1, #fields do
    sums[at] = (found[at] or 0) + changes[2 * at]
    changes[2 * at] = string.format('%d', sums[at])
  end
  redis.call('HSET', COUNTS, unpack(changes))
  return unpack(sums)
end

local function count_waiting(priority, by) add_to_counts({'waiting', by, 'waiting:' .. priority, by}) end

-- Under which name a key's unfinished and running jobs are counted: lines of batches apart, so that they use up nothing of
-- its own bounds and turns. No key's id has a space.
local function account(priority, owner) return priority == BATCH and BATCH .. ' ' .. owner or owner end

-- Unfinished answers of a key. A job has one, unless its field `answers` says more.
local function count_open(priority, owner, by)
  local name = account(priority, owner)
  if redis.call('HINCRBY', OPEN, name, by) <= 0 then redis.call('HDEL', OPEN, name) end
end

-- Running answers of a key; returns how many there are then.
local function count_running(priority, owner, by)
  local name = account(priority, owner)
  local running = redis.call('HINCRBY', RUNNING, name, by)
  if running <= 0 then redis.call('HDEL', RUNNING, name) end
  return running
end

-- Jobs that go before this one, plus one. An upper bound as things stand: tombstones count, and a lane's turn may come
-- sooner. Keys that run less go first, so that each gets as many turns more as this one runs now.
local function position(priority, owner, seq)
  local lanes, fields = redis.call('LLEN', turns_key(priority)), {'waiting', lane_field(priority, owner, 'popped')}
  for _, other in ipairs(PRIORITIES) do
    fields[#fields + 1] = 'waiting:' .. other
    if other == priority then break end
  end
  local waiting = redis.call('HMGET', COUNTS, unpack(fields))
  for at = 1, #fields do waiting[at] = tonumber(waiting[at] or '0') end
  local popped, same = waiting[2], waiting[#fields]
  local own = seq - popped
  local ahead = own - 1
  if lanes > 1 then
    local turns = own + tonumber(redis.call('HGET', RUNNING, account(priority, owner)) or '0')
    ahead = ahead + math.min(math.max(0, same - count_alive(priority, owner)), turns * (lanes - 1))
  end
  for at = 3, #fields - 1 do ahead = ahead + waiting[at] end
  return math.max(1, math.min(ahead + 1, waiting[1]))
end

-- A suspect may have killed its workers: it was charged, or its last two takes were barren. It runs alone.
local function is_suspect(failures, barren) return tonumber(failures) > 0 or tonumber(barren or '0') > 1 end

-- The position of a waiting job, wherever it waits: suspects go before all lanes. And, as a second value, what is told of
-- it: with each that goes before it here, one of each other queue of its model may.
local function place(id)
  local status, priority, owner, seq, failures, barren, shards = unpack(redis.call('HMGET', job_key(id),
    'status', 'priority', 'key_id', 'seq', 'failures', 'barren', 'shards'))
  if status ~= 'queued' then return 0, 0 end
  local at = is_suspect(failures, barren) and 1 or position(priority, owner, tonumber(seq))
  return at, at * (shards or 1)
end

-- Little's law: the rate of service is jobs in flight over the mean time one takes. '' while unmeasured.
local function estimated_wait(place)
  local mean = redis.call('HGET', COUNTS, 'service_s')
  if not mean then return '' end
  return string.format('%.3f', place * tonumber(mean) / math.max(1, redis.call('ZCARD', INFLIGHT)))
end

-- How many dead letters there are. Those whose state has expired leave the list here, at its old end.
local function count_dead()
  local oldest = redis.call('LINDEX', DEAD, -1)
  while oldest and redis.call('EXISTS', job_key(oldest)) == 0 do
    redis.call('RPOP', DEAD)
    oldest = redis.call('LINDEX', DEAD, -1)
  end
  return redis.call('LLEN', DEAD)
end

-- What is answered to whoever asks again for a job that is there.
local function known(id)
  -- A write, though of nothing new: whoever waits for the disk waits for the last write on this connection.
  redis.call('HSET', job_key(id), 'key_id', redis.call('HGET', job_key(id), 'key_id'))
  local at, told = place(id)
  return {'duplicate', id, redis.call('HGET', job_key(id), 'status'), told, at > 0 and estimated_wait(at) or ''}
end

-- What is answered where as many wait as may; nil where there is room. When a tenth has been served there is room again
-- for those who come back. A key of which nothing is unfinished has room for one: others have not filled its place.
local function why_full(max_waiting, open, waiting)
  if waiting >= max_waiting and open > 0 then return {'full', waiting, estimated_wait(math.max(1, waiting / 10))} end
end

-- What is answered where as many records wait for the database as may, or take a quarter of the room; nil where they do not.
local function why_no_trace(most, most_bytes)
  local waiting = waiting_traces()
  if waiting >= most or most_bytes > 0 and waiting > 0 and traces_bytes() > most_bytes / 4 then
    return {'traces_full', waiting}
  end
end

-- Seconds after which a job is forgotten, even if nobody is left to end it: no key lives for ever.
local function gone_after(deadline_s, result_ttl_s)
  return math.ceil(tonumber(deadline_s) + tonumber(result_ttl_s) + 3600)
end

-- The one way a job comes in: its lane, its deadline, its first event, and last its state, with which it is accepted. What
-- a step that stopped before has left is done anew. `further` are more fields of its state. Returns its position and wait.
local function admit(id, payload, owner, operation, priority, on_disconnect, deadline_s, log_ttl_s, result_ttl_s,
    watch_grace_s, on_worker_loss, trace, further)
  local key, deadline_at, gone_s = job_key(id), seconds(NOW + tonumber(deadline_s)), gone_after(deadline_s, result_ttl_s)
  -- First: whoever mends finds it there.
  redis.call('ZADD', DEADLINES, deadline_at, id)
  local seq, order = add_to_counts({lane_field(priority, owner, 'pushed'), 1, 'order', 1, 'waiting', 1,
    'waiting:' .. priority, 1})
  if redis.call('RPUSH', lane_key(priority, owner), id) == 1 then
    redis.call('RPUSH', turns_key(priority), owner)
  end
  count_open(priority, owner, further.answers or 1)
  if on_disconnect == 'cancel' then
    redis.call('ZADD', WATCHED, seconds(NOW + tonumber(watch_grace_s)), id)
  end
  local at = position(priority, owner, seq)
  local wait, told = estimated_wait(at), at * (further.shards or 1)
  local line = string.format('queued {"queue_position":%d,"estimated_wait_s":%s}', told, wait == '' and 'null' or wait)
  if redis.call('RPUSH', log_key(id), line) > 1 then redis.call('LTRIM', log_key(id), -1, -1) end
  redis.call('EXPIRE', log_key(id), gone_s)
  local fields = {'payload', payload, 'key_id', owner, 'operation', operation, 'priority', priority,
    'on_disconnect', on_disconnect, 'status', 'queued', 'fence', 0, 'failures', 0, 'takes', 0, 'seq', seq,
    'order', order, 'accepted_at', seconds(NOW), 'deadline_at', deadline_at, 'log_ttl_s', log_ttl_s,
    'result_ttl_s', result_ttl_s}
  local function note(name, value) fields[#fields + 1], fields[#fields + 2] = name, value end
  if on_worker_loss == 'restart' then note('restarts', 1) end
  if trace ~= '' then note('trace', trace) end
  for name, value in pairs(further) do note(name, value) end
  redis.call('HSET', key, unpack(fields))
  redis.call('EXPIRE', key, gone_s)
  publish(id, 1, {line})
  local bytes = job_bytes(id) + math.max(log_bytes(id), further.expected or 0)
  redis.call('HSET', key, 'bytes', bytes)
  hold(owner, bytes)
  -- Workers that are full of a batch would notice later.
  if priority ~= BATCH and redis.call('EXISTS', turns_key(BATCH)) == 1 then redis.pcall('PUBLISH', CONTROL, '') end
  return told, wait
end

-- Rewrite a lane without the ids of jobs that no longer wait. Returns how many do, and their bytes. O(length).
local function sweep(priority, owner)
  local lane = lane_key(priority, owner)
  local ids = redis.call('LRANGE', lane, 0, -1)
  redis.call('DEL', lane)
  local popped, kept, waiting, bytes = count(lane_field(priority, owner, 'popped')), 0, {}, 0
  for _, id in ipairs(ids) do
    local status, own = unpack(redis.call('HMGET', job_key(id), 'status', 'bytes'))
    if status == 'queued' then
      kept, bytes = kept + 1, bytes + tonumber(own or '0')
      waiting[kept] = id
      redis.call('HSET', job_key(id), 'seq', popped + kept)
    end
  end
  for at = 1, kept, 1000 do redis.call('RPUSH', lane, unpack(waiting, at, math.min(at + 999, kept))) end
  redis.call('HSET', COUNTS, lane_field(priority, owner, 'tombstones'), 0,
    lane_field(priority, owner, 'pushed'), popped + kept)
  if kept == 0 then forget_lane(priority, owner) end
  return kept, bytes
end

-- A cancelled job's id stays in its lane; half a lane of such tombstones is swept out in one go, so that
-- each costs O(1) on average and none can pile up. A lane of nothing else goes at once.
local function bury(priority, owner)
  local tombstones = redis.call('HINCRBY', COUNTS, lane_field(priority, owner, 'tombstones'), 1)
  local length = redis.call('LLEN', lane_key(priority, owner))
  if tombstones >= length or (tombstones >= 64 and tombstones * 2 >= length) then sweep(priority, owner) end
end

-- A dead letter's request goes; how it ended is remembered as long as any other end, a minute at least.
local function forget_letter(id)
  local finished_at, result_ttl = unpack(redis.call('HMGET', job_key(id), 'finished_at', 'result_ttl_s'))
  if not finished_at then return end
  local left_s = math.max(60, math.ceil(tonumber(finished_at) + tonumber(result_ttl) - NOW))
  redis.call('HDEL', job_key(id), 'payload')
  redis.call('EXPIRE', job_key(id), left_s)
  fade_anew(id, left_s)
end

-- The oldest dead letters go, past so many of them, or past 64 MiB of requests; the newest stays. O(dead letters).
local function bound_letters(most)
  local letters, kept, bytes = redis.call('LRANGE', DEAD, 0, -1), 1, 0
  for at, id in ipairs(letters) do
    bytes = bytes + redis.call('HSTRLEN', job_key(id), 'payload')
    if at > 1 and (at > most or bytes > 67108864) then break end
    kept = at
  end
  for at = kept + 1, #letters do forget_letter(letters[at]) end
  redis.call('LTRIM', DEAD, 0, kept - 1)
end

-- The one way a job ends: last events, state, trace, what it held, and how long it is remembered. `lines` ends with the
-- terminal event. `text` is the whole answer where its holder gives it. `in_lane` is false once `take` has popped it.
-- `usage`: as in `tally`. `ended_by`: the fence of the holder that ends it. `keep_s`, for a dead letter: how long it is
-- remembered, its request too; `most`: how many are. Everything is read and worked out before its state says that it has ended.
local function conclude(id, status, lines, text, in_lane, usage, ended_by, keep_s, most)
  local key, last = job_key(id), lines[#lines]
  local was, priority, owner, failures, taken_at, log_ttl, result_ttl, idempotency, reserved, tokens_per_minute, bytes,
    restarts, barren, answers, images = unpack(redis.call('HMGET', key, 'status', 'priority', 'key_id', 'failures', 'taken_at',
    'log_ttl_s', 'result_ttl_s', 'idempotency', 'reserved', 'tokens_per_minute', 'bytes', 'restarts', 'barren', 'answers',
    'images'))
  local length = log_lines(id, lines, #lines - 1) or redis.call('LLEN', log_key(id))
  local tail, took = length + 1, tally(id, status, usage, restarts)
  local todo = {{'RPUSH', log_key(id), last}}
  local function later(...) todo[#todo + 1] = {...} end
  settle(todo, owner, status, took, reserved, tokens_per_minute)
  hand_over_trace(todo, id, status, lines, text, took, failures)
  later('HDEL', key, 'prompt_token_ids', 'stop', 'bytes', 'expected', 'watchers', 'beginnings',
    keep_s and '' or 'payload')
  if images then
    -- A dead letter expires when nobody looks, so it has its images itself.
    local whole = keep_s and with_images(redis.call('HGET', key, 'payload'), owner, images)
    if whole then later('HSET', key, 'payload', table.concat(whole)) end
    -- `replay` refuses a letter that still has this field.
    if whole or not keep_s then later('HDEL', key, 'images') end
  end
  later('EXPIRE', log_key(id), math.ceil(tonumber(log_ttl)))
  later('EXPIRE', key, keep_s or math.ceil(tonumber(result_ttl)))
  -- It names a result, and is worth nothing without.
  if idempotency then later('EXPIRE', idempotency, math.ceil(tonumber(result_ttl))) end
  if keep_s then
    later('LPUSH', DEAD, id)
    later('EXPIRE', DEAD, keep_s)
  end
  redis.call('HSET', key, 'status', status, 'finished_at', seconds(NOW), 'outcome', last, 'text', text, 'tail', tail,
    'ended_by', ended_by or '')
  carry_out(todo)
  publish(id, tail + 1 - #lines, lines)
  local log_left, job_left, fading = log_bytes(id), job_bytes(id) + vectors_bytes(id), {}
  local job_ttl = tonumber(keep_s or result_ttl)
  local together = span_end(log_ttl) == span_end(job_ttl)
  if not together then fade(fading, owner, log_left, tonumber(log_ttl)) end
  local fades_at = fade(fading, owner, together and log_left + job_left or job_left, job_ttl)
  if keep_s then fading[#fading + 1] = {'HSET', key, 'fading_at', fades_at, 'fading_bytes', job_left} end
  carry_out(fading)
  -- From here on it is all counted again where it is not right.
  hold(owner, log_left + job_left - (bytes or 0))
  if images then release_images(owner, images) end
  count_open(priority, owner, -(answers or 1))
  redis.call('ZREM', INFLIGHT, id)
  redis.call('ZREM', DEADLINES, id)
  redis.call('ZREM', WATCHED, id)
  if was == 'queued' then
    count_waiting(priority, -1)
    if is_suspect(failures, barren) then
      redis.call('LREM', SUSPECTS, 1, id)
    elseif in_lane then
      bury(priority, owner)
    end
    return
  end
  count_running(priority, owner, -(answers or 1))
  if status == 'completed' then
    local mean, last = redis.call('HGET', COUNTS, 'service_s'), NOW - tonumber(taken_at)
    if mean then last = 0.9 * tonumber(mean) + 0.1 * last end
    redis.call('HSET', COUNTS, 'service_s', seconds(last))
  end
  if keep_s then bound_letters(tonumber(most)) end
end

-- Back to the front of its lane, in its old order. Lanes are sorted by order of acceptance, so only jobs
-- that were put back before, and are older, are passed over.
local function requeue(id)
  local key = job_key(id)
  local priority, owner, order, failures, deadline_at, barren, answers = unpack(redis.call('HMGET', key,
    'priority', 'key_id', 'order', 'failures', 'deadline_at', 'barren', 'answers'))
  redis.call('ZADD', DEADLINES, deadline_at, id)
  redis.call('HSET', key, 'status', 'queued')
  redis.call('ZREM', INFLIGHT, id)
  count_waiting(priority, 1)
  count_running(priority, owner, -(answers or 1))
  if is_suspect(failures, barren) then
    redis.call('RPUSH', SUSPECTS, id)
    return
  end
  local lane, at, pivot = lane_key(priority, owner), 0, nil
  local length = redis.call('LLEN', lane)
  while at < length and not pivot do
    for _, other in ipairs(redis.call('LRANGE', lane, at, at + 31)) do
      local theirs = redis.call('HGET', job_key(other), 'order')
      if theirs and tonumber(theirs) > tonumber(order) then
        pivot = other
        break
      end
      at = at + 1
    end
  end
  if at == 0 then
    redis.call('LPUSH', lane, id)
  elseif pivot then
    redis.call('LINSERT', lane, 'BEFORE', pivot, id)
  else
    redis.call('RPUSH', lane, id)
  end
  if length == 0 then redis.call('LPUSH', turns_key(priority), owner) end
  local popped = redis.call('HINCRBY', COUNTS, lane_field(priority, owner, 'popped'), -1)
  redis.call('HSET', key, 'seq', popped + at + 1)
end

-- A worker died with this job on board. It is charged where the engine had it and gave nothing, or where it was alone and
-- gave nothing. Where it was one of several that no engine had yet, the take was barren, and nobody knows which of them it
-- was: at the second such take in a row it is tried alone. Returns which field counts it, and how much it says then. `blamed`:
-- it may be why its engine is stuck, and is charged whatever the engine gave.
local function charge(id, blamed)
  local engaged, progressed, failures, barren = unpack(redis.call('HMGET', job_key(id), 'engaged', 'progressed', 'failures',
    'barren'))
  if progressed and not blamed then return 'barren', 0 end
  if blamed or engaged or is_suspect(failures, barren) then return 'failures', failures + 1 end
  return 'barren', (barren or 0) + 1
end

-- What becomes of a running job that its holder has let go of. Asked to stop, it ends. `crashed`: it may be charged, and
-- ends where that happens too often. Else it waits again. `blamed`: it may be why its engine is stuck.
-- `parting`: seconds that a dead letter is kept, how many are kept, failures allowed, and the lines of the four ends.
-- `heard_at`: when its holder was last heard of. True where the job waits again.
local function let_go(id, crashed, parting, heard_at, blamed)
  local keep_s, most, max_failures, expired, disconnected, cancelled, lost = unpack(parting)
  local stop, left, failures = unpack(redis.call('HMGET', job_key(id), 'stop', 'left', 'failures'))
  local counter, times
  -- Once: a step that stopped after this has charged it already.
  if crashed and not stop and not left then counter, times = charge(id, blamed) end
  note_left(id, heard_at, counter, times)
  if counter == 'failures' then failures = times end
  if stop == 'deadline' then
    conclude(id, 'expired', {expired}, '', false)
  elseif stop then
    conclude(id, 'cancelled', {stop == 'disconnect' and disconnected or cancelled}, '', false)
  elseif crashed and (left or counter == 'failures') and tonumber(failures) >= math.max(1, tonumber(max_failures)) then
    conclude(id, 'failed', {lost}, '', false, nil, nil, keep_s, most)
  else
    requeue(id)
    return true
  end
  return false
end

local function ask_to_stop(id, reason)
  redis.call('HSETNX', job_key(id), 'stop', reason)
  redis.call('PUBLISH', CONTROL, id)
end
