-- Dead letters, the newest first, or one. O(limit).
-- KEYS[1] base
-- ARGV: limit, id ('' for the newest ones)
-- Returns a list of {id, key_id, priority, operation, accepted_at, finished_at, takes, failures, worker, outcome,
--                    bytes of the request, replayed as}
local limit, id = tonumber(ARGV[1]), ARGV[2]
local letters = {}

local function list(id)
  local key = job_key(id)
  local status, owner, priority, operation, accepted_at, finished_at, takes, failures, worker, outcome, replayed_as =
    unpack(redis.call('HMGET', key, 'status', 'key_id', 'priority', 'operation', 'accepted_at', 'finished_at',
    'takes', 'failures', 'worker', 'outcome', 'replayed_as'))
  local bytes = redis.call('HSTRLEN', key, 'payload')
  if status == 'failed' and (bytes > 0 or replayed_as) then
    letters[#letters + 1] = {id, owner, priority, operation, accepted_at, finished_at, takes, failures, worker,
      outcome, bytes, replayed_as or ''}
  end
end

if id ~= '' then
  list(id)
elseif limit > 0 and count_dead() > 0 then
  for _, one in ipairs(redis.call('LRANGE', DEAD, 0, limit - 1)) do list(one) end
end
return letters
