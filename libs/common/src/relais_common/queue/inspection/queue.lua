-- A model's queue at a glance. O(keys that wait; of each priority 500 at most).
-- KEYS[1] base
-- ARGV: how many of the longest backlogs
-- Returns {waiting, waiting high, waiting normal, waiting low, waiting batch, suspects, running, dead letters, service_s, wait,
--          age of the oldest ('' where nothing waits), bytes, waiting traces, age of the oldest of them ('' where there is
--          none), key_id, its waiting jobs, key_id, ...}
local top = tonumber(ARGV[1])
local LANES_SEEN, SUSPECTS_SEEN, patience = 500, 100, 5000
local backlogs, owners, oldest = {}, {}, nil

local function note(owner, waiting)
  if waiting <= 0 then return end
  if not backlogs[owner] then owners[#owners + 1] = owner end
  backlogs[owner] = (backlogs[owner] or 0) + waiting
end

local function note_age(accepted_at)
  accepted_at = tonumber(accepted_at)
  if accepted_at and (not oldest or accepted_at < oldest) then oldest = accepted_at end
end

-- A lane is sorted: its first job that is no tombstone is its oldest.
local function note_first(lane)
  local at, step = 0, 1
  while patience > 0 do
    local ids = redis.call('LRANGE', lane, at, at + step - 1)
    if #ids == 0 then return end
    for _, id in ipairs(ids) do
      patience = patience - 1
      local status, accepted_at = unpack(redis.call('HMGET', job_key(id), 'status', 'accepted_at'))
      if status == 'queued' then return note_age(accepted_at) end
    end
    at, step = at + #ids, 32
  end
end

for _, id in ipairs(redis.call('LRANGE', SUSPECTS, 0, SUSPECTS_SEEN - 1)) do
  local status, owner, accepted_at = unpack(redis.call('HMGET', job_key(id), 'status', 'key_id', 'accepted_at'))
  if status == 'queued' then
    note(owner, 1)
    note_age(accepted_at)
  end
end
local by_priority = {}
for _, priority in ipairs(PRIORITIES) do
  by_priority[#by_priority + 1] = count('waiting:' .. priority)
  for _, owner in ipairs(redis.call('LRANGE', turns_key(priority), 0, LANES_SEEN - 1)) do
    note(owner, count_alive(priority, owner))
    note_first(lane_key(priority, owner))
  end
end
table.sort(owners, function(one, other)
  if backlogs[one] ~= backlogs[other] then return backlogs[one] > backlogs[other] end
  return one < other
end)

local waiting = count('waiting')
local answer = {waiting, by_priority[1], by_priority[2], by_priority[3], by_priority[4], redis.call('LLEN', SUSPECTS),
  redis.call('ZCARD', INFLIGHT), count_dead(), redis.call('HGET', COUNTS, 'service_s') or '',
  estimated_wait(waiting + 1), oldest and seconds(NOW - oldest) or '', held_bytes(), waiting_traces(), oldest_trace_s()}
for at = 1, math.min(top, #owners) do
  answer[#answer + 1] = owners[at]
  answer[#answer + 1] = backlogs[owners[at]]
end
return answer
