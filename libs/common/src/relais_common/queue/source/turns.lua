-- Whose job is next, and what is handed over. Between lib.lua and take.lua. `hands` is what a worker gets in this step:
-- worker, lease_s, expired_line, and what it took: `jobs` as it is told of them, their `ids`, `answers` and `bytes` of payloads.

local LOOKED_AT, MOST_PREEMPTED = 64, 8

-- Keys of which nothing is handed over in this step.
local without = {}

-- Running answers by key, as far as they were looked up in this step.
local running = {}
local function runs(priority, owner)
  local name = account(priority, owner)
  if not running[name] then running[name] = tonumber(redis.call('HGET', RUNNING, name) or '0') end
  return running[name]
end

-- What a worker is told of a job, and the bytes of its payload.
local function describe(id)
  local fence, failures, payload, deadline_at, accepted_at, emitted, prompt, revision, barren, preempted, owner, images =
    unpack(redis.call('HMGET', job_key(id), 'fence', 'failures', 'payload', 'deadline_at', 'accepted_at', 'emitted',
    'prompt_token_ids', 'model_revision', 'barren', 'preempted', 'key_id', 'images'))
  local bytes = #(payload or '')
  if images then payload, bytes = with_images(payload, owner, images) end
  return {id, fence, failures, redis.call('LLEN', log_key(id)), payload or '',
    seconds(tonumber(deadline_at) - NOW), seconds(NOW - tonumber(accepted_at)),
    emitted and prompt or '', emitted and revision or '', is_suspect(failures, barren) and '1' or '0',
    preempted or '0'}, bytes or 0
end

-- False where its time is up, nil where the id is a tombstone.
local function hand_over(id, hands)
  local key = job_key(id)
  local status, priority, owner, deadline_at, last_fence, takes, answers, beginnings = unpack(redis.call('HMGET', key,
    'status', 'priority', 'key_id', 'deadline_at', 'fence', 'takes', 'answers', 'beginnings'))
  if status ~= 'queued' then return nil end
  if tonumber(deadline_at) <= NOW then
    conclude(id, 'expired', {hands.expired_line}, '', false)
    return false
  end
  count_waiting(priority, -1)
  answers = answers or 1
  running[account(priority, owner)] = count_running(priority, owner, answers)
  -- By the clock, so that no fence comes twice: a Redis that lost its last second has forgotten the takes in it.
  local fence = math.max(tonumber(last_fence) + 1, math.floor(NOW * 1000))
  if takes ~= '0' then redis.call('HDEL', key, 'engaged', 'progressed', 'left') end
  redis.call('HSET', key, 'status', 'running', 'fence', string.format('%d', fence), 'takes', takes + 1,
    'worker', hands.worker, 'taken_at', seconds(NOW), 'lease_s', hands.lease_s)
  redis.call('ZADD', INFLIGHT, seconds(NOW + hands.lease_s), id)
  if beginnings then note_home(beginnings, hands.worker) end
  local told, bytes = describe(id)
  hands.bytes = hands.bytes + bytes
  hands.ids[#hands.ids + 1] = id
  hands.answers = hands.answers + answers
  hands.jobs[#hands.jobs + 1] = told
  return true
end

-- Keys of a priority that wait, in turn, as far as they are looked at.
local function turns_of(priority)
  local owners, last = {}, LOOKED_AT - 1
  for _ in pairs(without) do last = last + 1 end
  for _, owner in ipairs(redis.call('LRANGE', turns_key(priority), 0, last)) do
    if not without[owner] then owners[#owners + 1] = owner end
    if #owners == LOOKED_AT then break end
  end
  return owners
end

-- As far as it was looked at in this step, since a job of that priority was last moved.
local has = {}
local function has_turn(priority)
  if next(without) ~= nil then return #turns_of(priority) > 0 end
  if has[priority] == nil then has[priority] = redis.call('EXISTS', turns_key(priority)) == 1 end
  return has[priority]
end

-- High before normal before low before batch; but one that was passed over often enough (`patience`, batch eight times that)
-- goes first, so that all move.
local function next_priority(patience)
  local chosen
  for _, priority in ipairs(PRIORITIES) do
    if has_turn(priority) then
      local most = priority == BATCH and 8 * patience or patience
      if not chosen or count('passed:' .. priority) >= most then chosen = priority end
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

-- Of the keys that run least, the one whose turn it is. Keys whose jobs take equally long so take turns, whatever the length
-- of their lanes. O(keys that wait, as far as they are looked at).
local function next_owner(priority)
  local chosen
  for _, owner in ipairs(turns_of(priority)) do
    if not chosen or runs(priority, owner) < runs(priority, chosen) then chosen = owner end
    if runs(priority, chosen) == 0 then break end
  end
  return chosen
end

-- One job of this key, whose next turn comes after all others'.
local function serve(priority, owner, hands)
  if redis.call('LLEN', turns_key(priority)) > 1 then
    redis.call('LREM', turns_key(priority), 1, owner)
    redis.call('RPUSH', turns_key(priority), owner)
  end
  local lane, served = lane_key(priority, owner), false
  while not served do
    local id = redis.call('LPOP', lane)
    if not id then break end
    redis.call('HINCRBY', COUNTS, lane_field(priority, owner, 'popped'), 1)
    served = hand_over(id, hands)
    if served == nil and count(lane_field(priority, owner, 'tombstones')) > 0 then
      redis.call('HINCRBY', COUNTS, lane_field(priority, owner, 'tombstones'), -1)
    end
  end
  if count_alive(priority, owner) <= 0 then
    forget_lane(priority, owner)
    has[priority] = nil
  end
  if served then note_passed_over(priority) end
  return served
end

-- A place changes hands where a key waits and another one runs at least two more, at the same priority or a lower one: that
-- one still runs no less afterwards, so nothing changes back. (A job with several answers gives and takes the places of all;
-- it may change back, but not before it has made progress.) A line of a batch gives its place to whatever waits above it.
-- The newest job of the one that gives waits again, at no charge, and goes on later where its log ends. `offers` are jobs
-- that their holder can hand back, the newest first: {id, owner, rank of priority}. Returns the ids of those handed on.
-- O(offers), of each job that is handed on.
local function preempt(offers, hands)
  local gone = {}
  local function hand_on(rank, owner)
    local chosen, most
    for at, offer in ipairs(offers) do
      local its = runs(PRIORITIES[offer.rank], offer.owner)
      local yields = offer.rank == #PRIORITIES and rank < #PRIORITIES
      if offer.rank >= rank and (yields or its >= runs(PRIORITIES[rank], owner) + 2) then
        -- Lines of batches first, then those of the key that runs most.
        if yields then its = math.huge end
        if not chosen or its > most then chosen, most = at, its end
      end
    end
    if not chosen or not serve(PRIORITIES[rank], owner, hands) then return false end
    local offer = table.remove(offers, chosen)
    note_left(offer.id, NOW, 'preempted', (redis.call('HGET', job_key(offer.id), 'preempted') or 0) + 1)
    requeue(offer.id)
    has = {}
    running[account(PRIORITIES[offer.rank], offer.owner)] = nil
    gone[#gone + 1] = offer.id
    return true
  end
  for rank, priority in ipairs(PRIORITIES) do
    local owner = next_owner(priority)
    while owner and #gone < MOST_PREEMPTED and hand_on(rank, owner) do owner = next_owner(priority) end
  end
  return gone
end
