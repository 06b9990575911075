-- Move waiting jobs with n answers into a worker's hands; the last one may have more. O(n), plus swept tombstones.
-- KEYS[1] base
-- ARGV: n, worker_id, call_id, lease_s, idle ('1' | '0'), passes before a lower priority is served, expired line,
--       answers that this worker holds, how often in a row it has left some to others ('' where shares
--       do not matter), bytes of payloads after which it gets no further job, how many keys it wants nothing of, those keys;
--       then repeated: id, fence: what a worker without room offers to hand back for others, the newest first
-- Returns {make_way, a list of {id, fence, failures, tail, payload (or the pieces that make it; '' where an image
--          is gone), deadline_in_s, queued_s,
--          prompt token ids (JSON; '' where no token was published yet), model revision,
--          suspect ('1': it is to run alone | '0'), how often it was preempted},
--          left ('1' where jobs were left to other workers | '0'), ids of what was handed back}
local limit, worker, call, lease_s, idle = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local patience, held, waited = tonumber(ARGV[6]), tonumber(ARGV[8]), tonumber(ARGV[9])
local memo = base .. ':take:' .. worker
local most_bytes, first_offer = tonumber(ARGV[10]), 12 + tonumber(ARGV[11])
local hands = {worker = worker, lease_s = lease_s, expired_line = ARGV[7], jobs = {}, ids = {}, answers = 0, bytes = 0}
for at = 12, first_offer - 1 do without[ARGV[at]] = true end

local function words(text)
  local found = {}
  for word in string.gmatch(text, '%S+') do found[#found + 1] = word end
  return found
end

local function memorise(gone)
  if #hands.ids == 0 then return end
  redis.call('SET', memo, call .. '\n' .. table.concat(hands.ids, ' ') .. '\n' .. table.concat(gone, ' '), 'EX', 120)
end

-- The answer to this very call was lost on its way: give it again.
local last_call, last_ids, last_gone = string.match(redis.call('GET', memo) or '', '^([^\n]*)\n([^\n]*)\n(.*)$')
if last_call == call then
  local again = {}
  for _, id in ipairs(words(last_ids)) do
    local status, holder = unpack(redis.call('HMGET', job_key(id), 'status', 'worker'))
    if status == 'running' and holder == worker then again[#again + 1] = describe(id) end
  end
  return {0, again, 0, words(last_gone)}
end

-- A worker without room asks whether places are to change hands.
if #ARGV >= first_offer then
  local ranks, offers = {}, {}
  for rank, priority in ipairs(PRIORITIES) do ranks[priority] = rank end
  for at = first_offer, count('waiting') > 0 and #ARGV or 0, 2 do
    local id = ARGV[at]
    local answer = verdict(id, ARGV[at + 1])
    -- One that was asked to stop makes room by itself.
    if answer[1] == 1 and answer[3] == '' then
      local owner, priority = unpack(redis.call('HMGET', job_key(id), 'key_id', 'priority'))
      offers[#offers + 1] = {id = id, owner = owner, rank = ranks[priority]}
    end
  end
  local gone = #offers > 0 and preempt(offers, hands) or {}
  memorise(gone)
  return {0, hands.jobs, 0, gone}
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
    redis.call('HSET', TAKERS, worker, held + hands.answers .. ' ' .. seconds(NOW))
    redis.call('EXPIRE', TAKERS, 60)
  else
    redis.call('HDEL', TAKERS, worker)
  end
end

-- A suspect runs alone: should it kill its worker again, nobody else is on board.
while idle and limit > 0 do
  local suspect = redis.call('LPOP', SUSPECTS)
  if not suspect then break end
  if hand_over(suspect, hands) then limit = 0 end
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
while hands.answers < limit and hands.bytes < most_bytes do
  local priority = next_priority(patience)
  if not priority then break end
  serve(priority, next_owner(priority), hands)
end
local left = limit < room and next_priority(patience) and 1 or 0
note_room(hands.answers < room)
memorise({})
without = {}  -- What is left of those keys is for other workers.
-- Suspects alone are no reason to ring, unless for the next idle worker: one that is busy cannot take them. Nor is any job
-- while there is no room for its answer: idle workers look again now and then.
if not crowded and (next_priority(patience) or (idle and redis.call('EXISTS', SUSPECTS) == 1)) then
  ring()
else
  redis.call('DEL', WAKEUP)
end
return {make_way, hands.jobs, left, {}}
