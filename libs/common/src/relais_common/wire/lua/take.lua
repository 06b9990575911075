-- Move up to n waiting jobs into a worker's hands. O(n), plus swept tombstones.
-- KEYS[1] base
-- ARGV: n, worker_id, call_id, lease_s, idle ('1' | '0'), passes before a lower priority is served, expired line,
--       jobs that this worker holds, how often in a row it has left some to others ('' where shares
--       do not matter), bytes of payloads after which it gets no further job,
--       ids of keys of which it gets none
-- Returns {make_way, a list of {id, fence, failures, tail, payload, deadline_in_s, queued_s,
--          prompt token ids (JSON; '' where no token was published yet), model revision,
--          suspect ('1': it is to run alone | '0')},
--          left ('1' where jobs were left to other workers | '0')}
local limit, worker, call, lease_s, idle = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local patience, expired_line, held, waited = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local most_bytes, bytes = tonumber(ARGV[10]), 0
local without = {}
for at = 11, #ARGV do without[ARGV[at]] = true end
local memo = base .. ':take:' .. worker

local function describe(id)
  local fence, failures, payload, deadline_at, accepted_at, emitted, prompt, revision, barren = unpack(redis.call(
    'HMGET', job_key(id), 'fence', 'failures', 'payload', 'deadline_at', 'accepted_at', 'emitted', 'prompt_token_ids',
    'model_revision', 'barren'))
  return {id, fence, failures, redis.call('LLEN', log_key(id)), payload,
    seconds(tonumber(deadline_at) - NOW), seconds(NOW - tonumber(accepted_at)),
    emitted and prompt or '', emitted and revision or '', is_suspect(failures, barren) and '1' or '0'}
end

-- The answer to this very call was lost on its way: give it again.
if redis.call('HGET', memo, 'call_id') == call then
  local again = {}
  for id in string.gmatch(redis.call('HGET', memo, 'ids') or '', '%S+') do
    local status, holder = unpack(redis.call('HMGET', job_key(id), 'status', 'worker'))
    if status == 'running' and holder == worker then again[#again + 1] = describe(id) end
  end
  return {0, again, 0}
end

local taken, ids = {}, {}

-- False where its time is up, nil where the id is a tombstone.
local function hand_over(id)
  local key = job_key(id)
  local status, priority, deadline_at = unpack(redis.call('HMGET', key, 'status', 'priority', 'deadline_at'))
  if status ~= 'queued' then return nil end
  if tonumber(deadline_at) <= NOW then
    conclude(id, 'expired', {expired_line}, '', false)
    return false
  end
  count_waiting(priority, -1)
  -- By the clock, so that no fence comes twice: a Redis that lost its last second has forgotten the takes in it.
  local fence = math.max(tonumber(redis.call('HGET', key, 'fence')) + 1, math.floor(NOW * 1000))
  redis.call('HSET', key, 'fence', string.format('%d', fence))
  redis.call('HINCRBY', key, 'takes', 1)
  redis.call('HSET', key, 'status', 'running', 'worker', worker, 'taken_at', seconds(NOW), 'lease_s', lease_s)
  redis.call('HDEL', key, 'engaged', 'progressed', 'left')
  redis.call('ZADD', INFLIGHT, seconds(NOW + lease_s), id)
  bytes = bytes + redis.call('HSTRLEN', key, 'payload')
  ids[#ids + 1] = id
  taken[#taken + 1] = describe(id)
  return true
end

local function has_turn(priority)
  if next(without) == nil then return redis.call('EXISTS', turns_key(priority)) == 1 end
  for _, owner in ipairs(redis.call('LRANGE', turns_key(priority), 0, -1)) do
    if not without[owner] then return true end
  end
  return false
end

-- High before normal before low; but one that was passed over often enough goes first, so that all move.
local function next_priority()
  local chosen
  for _, priority in ipairs(PRIORITIES) do
    if has_turn(priority) then
      if not chosen or count('passed:' .. priority) >= patience then chosen = priority end
    end
  end
  return chosen
end

local function note_passed_over(chosen)
  local lower = false
  for _, priority in ipairs(PRIORITIES) do
    if priority == chosen then
      lower = true
      redis.call('HDEL', COUNTS, 'passed:' .. priority)
    elseif lower and has_turn(priority) then
      redis.call('HINCRBY', COUNTS, 'passed:' .. priority, 1)
    end
  end
end

local function next_owner(turns)
  if next(without) == nil then return redis.call('LMOVE', turns, turns, 'LEFT', 'RIGHT') end
  for _, owner in ipairs(redis.call('LRANGE', turns, 0, -1)) do
    if not without[owner] then
      redis.call('LREM', turns, 1, owner)
      redis.call('RPUSH', turns, owner)
      return owner
    end
  end
end

-- One job of the key whose turn it is; keys take turns, whatever the length of their lanes.
local function serve(priority)
  local owner = next_owner(turns_key(priority))
  local lane, served = lane_key(priority, owner), false
  while not served do
    local id = redis.call('LPOP', lane)
    if not id then break end
    redis.call('HINCRBY', COUNTS, lane_field(priority, owner, 'popped'), 1)
    served = hand_over(id)
    if served == nil and count(lane_field(priority, owner, 'tombstones')) > 0 then
      redis.call('HINCRBY', COUNTS, lane_field(priority, owner, 'tombstones'), -1)
    end
  end
  if count_alive(priority, owner) <= 0 then forget_lane(priority, owner) end
  return served
end

-- Workers that asked lately and had room for more than they got share what they hold and what waits. How many more make this
-- one's share even; what it has left before and nobody took it may take after all: its part first, then twice as much, ...
local TAKERS, TAKER_S = base .. ':takers', 10
local function share()
  local waiting, workers, others = count('waiting'), 1, redis.call('HGETALL', TAKERS)
  local jobs = held + waiting
  for at = 1, #others, 2 do
    local holds, asked_at = string.match(others[at + 1], '^(%S+) (%S+)$')
    if NOW - asked_at > TAKER_S then
      redis.call('HDEL', TAKERS, others[at])
    elseif others[at] ~= worker then
      jobs, workers = jobs + holds, workers + 1
    end
  end
  local even = math.max(0, math.ceil(jobs / workers) - held)
  return waited == 0 and even or math.max(even, math.ceil(waiting / workers) * 2 ^ (waited - 1))
end

local function note_room(has_room)
  if has_room then
    redis.call('HSET', TAKERS, worker, held + #taken .. ' ' .. seconds(NOW))
    redis.call('EXPIRE', TAKERS, 60)
  else
    redis.call('HDEL', TAKERS, worker)
  end
end

-- A suspect runs alone: should it kill its worker again, nobody else is on board.
while idle and limit > 0 do
  local suspect = redis.call('LPOP', SUSPECTS)
  if not suspect then break end
  if hand_over(suspect) then limit = 0 end
end
-- Under load nobody would ever be idle: one worker at a time makes way.
local make_way = 0
if redis.call('GET', HOST) == worker and idle then redis.call('DEL', HOST) end
if not idle and redis.call('EXISTS', SUSPECTS) == 1
    and (redis.call('SET', HOST, worker, 'NX', 'EX', 10) or redis.call('GET', HOST) == worker) then
  redis.call('EXPIRE', HOST, 10)
  make_way, limit = 1, 0
end
-- Answers take room, and what they take is given back by ends alone: past the bound one job runs at a time.
local most = count('max_bytes')
local crowded = most > 0 and holds_more(most)
if crowded then limit = math.min(limit, redis.call('ZCARD', INFLIGHT) == 0 and 1 or 0) end
local room = limit
if waited and room > 0 then limit = math.min(room, share()) end
while #taken < limit and bytes < most_bytes do
  local priority = next_priority()
  if not priority then break end
  if serve(priority) then note_passed_over(priority) end
end
local left = limit < room and next_priority() and 1 or 0
note_room(#taken < room)

if #taken > 0 then
  redis.call('HSET', memo, 'call_id', call, 'ids', table.concat(ids, ' '))
  redis.call('EXPIRE', memo, 120)
end
-- Suspects alone are no reason to ring, unless for the next idle worker: one that is busy cannot take them. Nor is any job
-- while there is no room for its answer: idle workers look again now and then.
without = {}  -- What is left of those keys is for other workers.
if not crowded and (next_priority() or (idle and redis.call('EXISTS', SUSPECTS) == 1)) then
  ring()
else
  redis.call('DEL', WAKEUP)
end
return {make_way, taken, left}
