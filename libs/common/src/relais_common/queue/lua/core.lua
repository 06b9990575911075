-- Put in front of every script. KEYS[1] is the model's base, `relais:{<tag>}`; every name below derives
-- from it and so lies in the same slot. Time is this server's clock. Redis runs this at every call, so what the scripts
-- that are called most do not need is in lib.lua.

local base = KEYS[1]
local PRIORITIES, BATCH = {'high', 'normal', 'low', 'batch'}, 'batch'
local COUNTS, OPEN, RUNNING, INFLIGHT, DEADLINES, WATCHED, WAKEUP, SUSPECTS, HOST, DEAD, CONTROL, FADING =
  base .. ':counts', base .. ':open', base .. ':running', base .. ':inflight', base .. ':deadlines', base .. ':watched',
  base .. ':wakeup', base .. ':suspects', base .. ':host', base .. ':dead', base .. ':control',
  base .. ':fading'

local function job_key(id) return base .. ':job:' .. id end
local function log_key(id) return base .. ':log:' .. id end
local function live_key(id) return base .. ':live:' .. id end
local function turns_key(priority) return base .. ':turns:' .. priority end
local function lane_key(priority, owner) return base .. ':queue:' .. priority .. ':' .. owner end

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end
local NOW = clock()

-- '%.6f', because Lua's own form of a number of seconds since the epoch keeps 14 digits only.
local function seconds(value) return string.format('%.6f', value) end

-- Returns how many lines the log has then; nil where there were none to add.
local function log_lines(id, lines, last)
  local length
  for i = 1, last, 1000 do length = redis.call('RPUSH', log_key(id), unpack(lines, i, math.min(i + 999, last))) end
  return length
end

-- A hint, so that its failure is none of the step's.
local function publish(id, first_seq, lines)
  redis.pcall('PUBLISH', live_key(id), first_seq .. '\n' .. table.concat(lines, '\n'))
end

local function append(id, first_seq, lines)
  log_lines(id, lines, #lines)
  publish(id, first_seq, lines)
end

-- Which orchestrators have readers of a job, for the reaper.
local function note_watcher(id, watcher)
  local watchers = redis.call('HGET', job_key(id), 'watchers') or ''
  if watcher ~= '' and not string.find(' ' .. watchers .. ' ', ' ' .. watcher .. ' ', 1, true) then
    redis.call('HSET', job_key(id), 'watchers', watchers == '' and watcher or watchers .. ' ' .. watcher)
  end
end

-- Carry out a step for each of several jobs, whose arguments are ARGV[from] to ARGV[to]: ARGV is, repeated, their number and
-- they. What goes wrong with one holds up no other: it is that one's answer, and the next reaper looks at every job.
local function each(step)
  local answers, from = {}, 2
  while from <= #ARGV + 1 do
    local to = from + ARGV[from - 1] - 1
    local done, answer = pcall(step, from, to)
    if not done then
      local problem = type(answer) == 'table' and answer.err or tostring(answer)
      -- A replica writes for none of them. As the call's own error, it has the caller look for the primary.
      if string.find(problem, 'READONLY', 1, true) then error(answer, 0) end
      redis.pcall('HSET', COUNTS, 'drifted', 1)
      answer = {err = problem}
    end
    answers[#answers + 1], from = answer, to + 2
  end
  return answers
end

-- Does this fence still hold this job? Also its log's length and whether it is asked to stop; and, as a second value,
-- whether its holder has published tokens of it.
local function verdict(id, fence)
  local status, current, stop, progressed = unpack(redis.call('HMGET', job_key(id), 'status', 'fence', 'stop',
    'progressed'))
  if status ~= 'running' or current ~= fence then return {0, 0, ''}, false end
  return {1, redis.call('LLEN', log_key(id)), stop or ''}, progressed
end
