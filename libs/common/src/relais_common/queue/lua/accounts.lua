-- What keys may take in a minute and in a day, and what they took in a day. Between core.lua and lib.lua.

local USAGE_DAYS = 92
-- Of a count of tokens: what is longer was counted by nobody.
local MOST_DIGITS = 13

local function used_key(limit, owner) return base .. ':used:' .. limit .. ':' .. owner end

-- A token bucket, kept as what is used of it: it empties by `per_minute` a minute, and once empty it is not there.
local function used_of(limit, owner, per_minute)
  local used, at = string.match(redis.call('GET', used_key(limit, owner)) or '', '^(%S+) (%S+)$')
  if not used then return 0 end
  return math.max(0, tonumber(used) - math.max(0, NOW - tonumber(at)) * per_minute / 60)
end

-- The command that notes it.
local function noting_used(limit, owner, per_minute, used)
  if used <= 0 then return {'DEL', used_key(limit, owner)} end
  return {'SET', used_key(limit, owner), seconds(used) .. ' ' .. seconds(NOW), 'EX', math.ceil(used * 60 / per_minute) + 1}
end

local function usage_key() return base .. ':usage:' .. math.floor(NOW / 86400) end

-- Seconds until a key's day has room for so many tokens; 0 where it has. What is unfinished is on no account yet.
local function day_full_s(owner, tokens_per_day, tokens)
  if tokens_per_day == 0 then return 0 end
  local input, output = unpack(redis.call('HMGET', usage_key(), owner .. ' input_tokens', owner .. ' output_tokens'))
  return (input or 0) + (output or 0) + tokens > tokens_per_day and 86400 - NOW % 86400 or 0
end

-- Whether a request and its tokens fit in a key's minute and day, both or neither. A limit of 0 is none. A batch leaves half
-- of the minute's tokens to other requests. Returns what would be used then of the requests and of the tokens, or false, what
-- is used now, and how long the day is full.
local function used_with(owner, priority, requests_per_minute, tokens_per_minute, tokens_per_day, tokens)
  local requests = requests_per_minute > 0 and used_of('requests', owner, requests_per_minute) or 0
  local spent = tokens_per_minute > 0 and used_of('tokens', owner, tokens_per_minute) or 0
  -- What was kept has six decimals.
  local rounding = 0.000001
  if requests_per_minute > 0 and requests + 1 > requests_per_minute + rounding
      or tokens_per_minute > 0 and (spent + tokens > tokens_per_minute + rounding
        or priority == BATCH and spent > tokens_per_minute / 2) then
    return false, requests, spent, 0
  end
  local full_s = day_full_s(owner, tokens_per_day, tokens)
  if full_s > 0 then return false, requests, spent, full_s end
  return true, requests_per_minute > 0 and requests + 1 or 0, tokens_per_minute > 0 and spent + tokens or 0
end

-- Tokens that a job has taken whose holder did not count them: its prompt once an engine had it, and what was emitted
-- since the answer last began; text without ids, from a server that does not tell them, counts as one. Last what was emitted
-- before, and so is void. O(events of its log), a small part of what appending them took.
local function measure(id)
  local input, output, void, length = 0, 0, 0, redis.call('LLEN', log_key(id))
  for at = 1, length - 1, 500 do
    for _, line in ipairs(redis.call('LRANGE', log_key(id), at, at + 499)) do
      local name = string.match(line, '^%S+')
      if name == 'token' then
        -- Within the text, a quotation mark has a backslash before it.
        local ids = string.match(line, ',"token_ids":%[([%d,]*)%]')
        if ids and ids ~= '' then
          output = output + 1 + select(2, string.gsub(ids, ',', ''))
        elseif not string.find(line, '^token {"text":"",') then
          output = output + 1
        end
      elseif name == 'started' then
        local digits = string.match(line, '%d+')
        input = digits and #digits <= MOST_DIGITS and tonumber(digits) or 0
      elseif name == 'restarted' then
        void, output = void + output, 0
      end
    end
  end
  return input, output, 0, void
end

-- What an ended job took, as '<input> <output> <cached> <wasted>' tokens: what restarts made void is wasted, and all of one
-- that did not complete. `usage`: '<input> <output> <cached>' tokens of 13 digits at most, or anything else where nobody
-- counted. `restarts`, where its answer may have begun again.
local function tally(id, status, usage, restarts)
  local input, output, cached = string.match(usage or '', '^(%d+) (%d+) (%d+)$')
  local wasted = 0
  if not input or math.max(#input, #output, #cached) > MOST_DIGITS then
    input, output, cached, wasted = measure(id)
  elseif restarts then
    wasted = select(4, measure(id))
  end
  if status ~= 'completed' then wasted = wasted + output end
  return {input = tonumber(input), output = tonumber(output), cached = tonumber(cached), wasted = wasted}
end

-- Have it written that a job took this: on its key's account of the day, and in the place of what it had reserved.
local function settle(todo, owner, status, took, reserved, tokens_per_minute)
  local account = usage_key()
  local counters = {[status] = 1, input_tokens = took.input, output_tokens = took.output, cached_tokens = took.cached}
  for counter, by in pairs(counters) do
    if by > 0 then todo[#todo + 1] = {'HINCRBY', account, owner .. ' ' .. counter, string.format('%d', by)} end
  end
  if redis.call('EXISTS', account) == 0 then todo[#todo + 1] = {'EXPIRE', account, USAGE_DAYS * 86400} end
  if reserved then
    local per_minute = tonumber(tokens_per_minute)
    local used = used_of('tokens', owner, per_minute) + took.input + took.output - tonumber(reserved)
    todo[#todo + 1] = noting_used('tokens', owner, per_minute, used)
  end
end
