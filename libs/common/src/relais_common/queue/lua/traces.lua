-- What the record of an ended job is made of, and the stream in which it waits for the database. After core.lua.

local TRACES, ASIDE, WRITERS = base .. ':traces', base .. ':traces:aside', 'writers'
-- A database takes documents of 16 MiB, in which an array of numbers takes up to seven times what it takes in JSON.
local MOST_CONTENT_BYTES = 2097152

-- Seconds that a job has spent until now: waiting before and in hands before the first token of each take; in hands after
-- it; waiting after the first token of all. `spent` has those of earlier takes. A job is in hands from its take on until
-- `left`; a wait of which nothing is noted began at the acceptance.
local function phases(id, now)
  local spent, accepted_at, waits_since, stalls, taken_at, left, progressed = unpack(redis.call('HMGET', job_key(id),
    'spent', 'accepted_at', 'waits_since', 'stalls', 'taken_at', 'left', 'progressed'))
  local queue, prefill, decode, stalled = string.match(spent or '0 0 0 0', '^(%S+) (%S+) (%S+) (%S+)$')
  local in_hands = taken_at and not left
  local wait = math.max(0, (in_hands and tonumber(taken_at) or now) - tonumber(waits_since or accepted_at))
  if stalls == '1' then stalled = stalled + wait else queue = queue + wait end
  if in_hands then
    local first = math.max(tonumber(taken_at), math.min(now, tonumber(progressed or now)))
    prefill, decode = prefill + first - taken_at, decode + math.max(0, now - first)
  end
  return seconds(queue) .. ' ' .. seconds(prefill) .. ' ' .. seconds(decode) .. ' ' .. seconds(stalled)
end

-- A take is over without an end, since then: its holder let go, or was last heard of. Where a counter of the job is given,
-- it says so much from now on.
local function note_left(id, at, counter, times)
  local key = job_key(id)
  local taken_at, progressed, emitted = unpack(redis.call('HMGET', key, 'taken_at', 'progressed', 'emitted'))
  at = math.min(NOW, math.max(at, tonumber(taken_at), tonumber(progressed or '0')))
  redis.call('HSET', key, 'spent', phases(id, at), 'left', 1, 'waits_since', seconds(at), 'stalls', emitted and 1 or 0,
    unpack(counter and {counter, times} or {}))
end

local function waiting_traces() return redis.call('XLEN', TRACES) end
local function traces_bytes() return redis.call('MEMORY', 'USAGE', TRACES) or 0 end
local function oldest_trace_s()
  local oldest = redis.call('XRANGE', TRACES, '-', '+', 'COUNT', 1)[1]
  return oldest and seconds(math.max(0, NOW - string.match(oldest[1], '^%d+') / 1000)) or ''
end

-- What was published of the (first) answer of a job that ended with nobody to say it, or as much of it as is too long for a record.
-- O(events of its log).
local function published(id)
  local texts, bytes, at, page = {}, 0, 0, nil
  repeat
    page = redis.call('LRANGE', log_key(id), at, at + 499)
    at = at + #page
    for _, line in ipairs(page) do
      local name, data = string.match(line, '^(%S+) (.*)$')
      -- Whatever stands there, the job must end.
      local read, token = pcall(cjson.decode, name == 'token' and data or '')
      local text = read and type(token) == 'table' and not token.index and token.text
      if type(text) == 'string' then
        texts[#texts + 1], bytes = text, bytes + #text
      elseif name == 'restarted' then
        texts, bytes = {}, 0
      end
    end
  until #page == 0 or bytes > MOST_CONTENT_BYTES
  return table.concat(texts)
end

-- Have the trace written of a job that ends now, in the step that ends it. `lines` are its last events. Where 'full' was
-- asked for, what was asked and answered goes with it; where its API's record is stored, that and the answer.
local function hand_over_trace(todo, id, status, lines, text, took, failures)
  local key = job_key(id)
  local trace, owner, operation, priority, takes, accepted_at, emitted, revision, preempted, answers, stored = unpack(
    redis.call('HMGET', key, 'trace', 'key_id', 'operation', 'priority', 'takes', 'accepted_at', 'emitted', 'model_revision',
    'preempted', 'answers', 'stored'))
  if not trace then return end
  local first = emitted or ''
  for at = 1, emitted and 0 or #lines do
    if string.find(lines[at], '^token ') then first = seconds(NOW) end
  end
  local usage = string.format('%d %d %d %d', took.input, took.output, took.cached, took.wasted)
  local fields = {'XADD', TRACES, '*', 'channel_id', id, 'key_id', owner, 'operation', operation, 'priority', priority,
    'status', status, 'outcome', lines[#lines], 'takes', takes, 'failures', failures, 'preemptions', preempted or 0,
    'answers', answers or 1, 'usage', usage, 'accepted_at', accepted_at,
    'first_token_at', first, 'finished_at', seconds(NOW), 'phases', phases(id, NOW), 'model_revision', revision or ''}
  local function add(...)
    for _, field in ipairs({...}) do fields[#fields + 1] = field end
  end
  local full, told = trace == 'full', text
  stored = stored == '1'
  if (full or stored) and text == '' and first ~= '' then told = published(id) end
  if full then
    local request = redis.call('HGET', key, 'payload') or ''
    if #request + #told > MOST_CONTENT_BYTES then
      add('omitted_bytes', #request + #told)
    else
      add('request', request, 'answer', told)
    end
  end
  if stored then
    local record, record_input = unpack(redis.call('HMGET', key, 'record', 'record_input'))
    add('record', record, 'record_input', record_input, 'text', told)
  end
  todo[#todo + 1] = fields
end
