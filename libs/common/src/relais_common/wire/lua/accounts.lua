-- What keys may take in a minute, and what they took in a day. Between core.lua and lib.lua.

local USAGE_DAYS = 92

local function used_key(limit, owner) return base .. ':used:' .. limit .. ':' .. owner end

-- A token bucket, kept as what is used of it: it empties by `per_minute` a minute, and once empty it is not there.
local function used_of(limit, owner, per_minute)
  local used, at = string.match(redis.call('GET', used_key(limit, owner)) or '', '^(%S+) (%S+)$')
  if not used then return 0 end
  return math.max(0, tonumber(used) - math.max(0, NOW - tonumber(at)) * per_minute / 60)
end

local function note_used(limit, owner, per_minute, used)
  if used > 0 then
    redis.call('SET', used_key(limit, owner), seconds(used) .. ' ' .. seconds(NOW),
      'EX', math.ceil(used * 60 / per_minute) + 1)
  else
    redis.call('DEL', used_key(limit, owner))
  end
end

-- Take a request and its tokens out of a key's minute, both or neither. A limit of 0 is none. Returns whether it fits,
-- and what is used now of the requests and of the tokens.
local function reserve(owner, requests_per_minute, tokens_per_minute, tokens)
  local requests = requests_per_minute > 0 and used_of('requests', owner, requests_per_minute) or 0
  local spent = tokens_per_minute > 0 and used_of('tokens', owner, tokens_per_minute) or 0
  -- What was kept has six decimals.
  local rounding = 0.000001
  if requests_per_minute > 0 and requests + 1 > requests_per_minute + rounding
      or tokens_per_minute > 0 and spent + tokens > tokens_per_minute + rounding then
    return false, seconds(requests), seconds(spent)
  end
  if requests_per_minute > 0 then
    requests = requests + 1
    note_used('requests', owner, requests_per_minute, requests)
  end
  if tokens_per_minute > 0 then
    spent = spent + tokens
    note_used('tokens', owner, tokens_per_minute, spent)
  end
  return true, seconds(requests), seconds(spent)
end

-- Tokens that a job has taken whose holder did not count them: its prompt once an engine had it, and what was emitted
-- since the answer last began; text without ids, from a server that does not tell them, counts as one. Last what was emitted
-- before, and so is void. O(events of its log), a small part of what appending them took.
local function measure(id)
  local input, output, void, length = 0, 0, 0, redis.call('LLEN', log_key(id))
  for at = 1, length - 2, 500 do
    for _, line in ipairs(redis.call('LRANGE', log_key(id), at, math.min(at + 499, length - 2))) do
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
        input = tonumber(string.match(line, '%d+') or 0)
      elseif name == 'restarted' then
        void, output = void + output, 0
      end
    end
  end
  return input, output, 0, void
end

-- A job has ended: what it took goes on its key's account of the day, and takes the place of what it had reserved.
-- `usage`: '<input> <output> <cached>' tokens, or nil where nobody counted. `restarts`, where its answer may have begun
-- again. Returns '<input> <output> <cached> <wasted>' tokens: what restarts made void, and all of one that did not complete.
local function settle(id, owner, status, usage, reserved, tokens_per_minute, restarts)
  local input, output, cached = string.match(usage or '', '^(%d+) (%d+) (%d+)$')
  local wasted = 0
  if not input then
    input, output, cached, wasted = measure(id)
  elseif restarts then
    wasted = select(4, measure(id))
  end
  if status ~= 'completed' then wasted = wasted + output end
  local account = base .. ':usage:' .. math.floor(NOW / 86400)
  local function add(counter, by)
    if tonumber(by) > 0 and redis.call('HINCRBY', account, owner .. ' ' .. counter, by) == tonumber(by) then
      redis.call('EXPIRE', account, USAGE_DAYS * 86400)
    end
  end
  add(status, 1)
  add('input_tokens', input)
  add('output_tokens', output)
  add('cached_tokens', cached)
  if reserved then
    local per_minute = tonumber(tokens_per_minute)
    local used = used_of('tokens', owner, per_minute) + input + output - tonumber(reserved)
    note_used('tokens', owner, per_minute, used)
  end
  return string.format('%d %d %d %d', input, output, cached, wasted)
end
