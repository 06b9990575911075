-- Living jobs, by deadline. O(limit + running jobs).
-- KEYS[1] base
-- ARGV: which ('all' | 'queued' | 'running' | 'suspect'), limit, latest ('1': the latest deadline first | '0')
-- Returns a list of {id, key_id, priority, operation, status, age_s, deadline_in_s, running_s, worker, takes, failures,
--                    tail, stop}
local which, limit, latest = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local listed = {}

local function list(id)
  local owner, priority, operation, status, accepted_at, deadline_at, taken_at, worker, takes, failures, stop =
    unpack(redis.call('HMGET', job_key(id), 'key_id', 'priority', 'operation', 'status', 'accepted_at',
    'deadline_at', 'taken_at', 'worker', 'takes', 'failures', 'stop'))
  local running = status == 'running'
  if not (running or status == 'queued') or (which == 'queued' and running) then return end
  listed[#listed + 1] = {id, owner, priority, operation, status, seconds(NOW - tonumber(accepted_at)),
    seconds(tonumber(deadline_at) - NOW), running and seconds(NOW - tonumber(taken_at)) or '',
    running and worker or '', takes, failures, redis.call('LLEN', log_key(id)), stop or ''}
end

local function list_all(ids)
  for at = 1, #ids do
    if #listed >= limit then return end
    list(ids[latest and #ids + 1 - at or at])
  end
end

-- Jobs past their deadline that their holders have yet to end: the reaper has taken them out of the deadlines.
local function list_overdue()
  if which == 'all' or which == 'running' then list_all(redis.call('ZDIFF', 2, INFLIGHT, DEADLINES)) end
end

local function list_others()
  if which == 'suspect' then
    list_all(redis.call('LRANGE', SUSPECTS, latest and -limit or 0, latest and -1 or limit - 1))
  elseif which == 'running' then
    list_all(redis.call('ZINTER', 2, DEADLINES, INFLIGHT, 'WEIGHTS', 1, 0))
  else
    local at = 0
    while #listed < limit do
      local ids = redis.call('ZRANGE', DEADLINES, latest and -at - limit or at, latest and -at - 1 or at + limit - 1)
      if #ids == 0 then return end
      list_all(ids)
      at = at + limit
    end
  end
end

if latest then
  list_others()
  list_overdue()
else
  list_overdue()
  list_others()
end
return listed
