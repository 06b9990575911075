-- Move waiting jobs with n answers into a worker's hands; the last one may have more. O(n), plus swept tombstones.
-- KEYS[1] base
-- ARGV: n, worker_id, call_id, lease_s, idle ('1' | '0'), passes before a lower priority is served, expired line,
--       answers that this worker holds, how often in a row it has left some to others ('' where shares
--       do not matter), bytes of payloads after which it gets no further job, seconds for which a job is left to its home,
--       how many keys it wants nothing of, those keys;
--       then repeated: id, fence: what a worker without room offers to hand back for others, the newest first
-- Returns {make_way, a list of {id, fence, failures, tail, payload (or the pieces that make it; '' where an image
--          is gone), deadline_in_s, queued_s,
--          prompt token ids (JSON; '' where no token was published yet), model revision,
--          suspect ('1': it is to run alone | '0'), how often it was preempted},
--          left (1 where jobs were left to other workers | 2 to their homes alone | 0), ids of what was handed back}
local limit, worker, call, lease_s, idle = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1'
local patience, held, waited = tonumber(ARGV[6]), tonumber(ARGV[8]), tonumber(ARGV[9])
local memo = base .. ':take:' .. worker
local most_bytes, stays_s, first_offer = tonumber(ARGV[10]), tonumber(ARGV[11]), 13 + tonumber(ARGV[12])
local hands = {worker = worker, lease_s = lease_s, expired_line = ARGV[7], jobs = {}, ids = {}, answers = 0, bytes = 0}
for at = 13, first_offer - 1 do without[ARGV[at]] = true end

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
-- Of what begins as something that it had lately it may take more, by half of what each has then.
local others_hold, even_level = {}, 0
local function share()
  local waiting, workers, others = count('waiting'), 1, redis.call('HGETALL', TAKERS)
  local jobs = held + waiting
  for at = 1, #others, 2 do
    local holds, asked_at = string.match(others[at + 1], '^(%S+) (%S+)$')
    if NOW - asked_at > TAKER_S then
      redis.call('HDEL', TAKERS, others[at])
    elseif others[at] ~= worker then
      jobs, workers = jobs + holds, workers + 1
      others_hold[others[at]] = tonumber(holds)
    end
  end
  even_level = math.ceil(jobs / workers)
  local even = math.max(0, even_level - held)
  return waited == 0 and even or math.max(even, math.ceil(waiting / workers) * 2 ^ (waited - 1))
end
local function most_at_home() return even_level + 1 + math.floor(even_level / 2) end

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
local most_here = limit
if waited and room > 0 then
  limit = math.min(room, share())
  most_here = math.min(room, math.max(limit, most_at_home() - held))
end
-- A job is left to its home for as long as that one may need to come, where it has room; and past this worker's share it takes
-- what is at home here alone. The keys of which a job was left have no further turn in this step.
local MOST_LEFT = 8
local at_home, over, left_over = {}, nil, 0
local function home_of_next(priority, owner)
  local id = redis.call('LINDEX', lane_key(priority, owner), 0)
  if not id then return end
  local beginnings, accepted_at = unpack(redis.call('HMGET', job_key(id), 'beginnings', 'accepted_at'))
  local home = beginnings and home_of(beginnings)
  local stays = home and others_hold[home] and others_hold[home] < most_at_home() and NOW - accepted_at < stays_s
  return home, stays
end
while hands.answers < most_here and hands.bytes < most_bytes and left_over < MOST_LEFT do
  local priority = next_priority(patience)
  -- What is left to others goes before what is at home here and has a lower priority.
  if not priority or over and over ~= priority then break end
  local owner, home, stays = next_owner(priority), nil, false
  if next(others_hold) ~= nil then home, stays = home_of_next(priority, owner) end
  if stays then
    at_home[owner] = home
  elseif hands.answers >= limit and home ~= worker then
    over = priority
  else
    serve(priority, owner, hands)
    owner = nil
  end
  if owner then without[owner], left_over = true, left_over + 1 end
end
local left = (over or limit < room and next_priority(patience)) and 1 or left_over > 0 and 2 or 0
note_room(hands.answers < room)
memorise({})
-- What is left of other keys is for other workers.
without = {}
for owner, home in pairs(at_home) do
  without[owner] = true
  ring(1, home)
end
-- Suspects alone are no reason to ring, unless for the next idle worker: one that is busy cannot take them. Nor is any job
-- while there is no room for its answer: idle workers look again now and then.
if not crowded and (next_priority(patience) or (idle and redis.call('EXISTS', SUSPECTS) == 1)) then
  ring()
else
  redis.call('DEL', WAKEUP, wakeup_of(worker))
end
return {make_way, hands.jobs, left, {}}
