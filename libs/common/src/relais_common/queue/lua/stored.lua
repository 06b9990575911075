-- What Redis holds of a model's jobs, in all and of each key, and how much more of it a key may have. Between traces.lua
-- and lib.lua.

local HELD = base .. ':held'
-- A key may hold so many times what stays free. So one that is alone has two thirds, each that comes later two thirds of
-- what is left, and all have the same once the first ones' has faded.
local SHARE = 2
local KEYS_FORGOTTEN_AT_ONCE = 2000

local function count(field) return tonumber(redis.call('HGET', COUNTS, field) or '0') end
local function span_key(at) return base .. ':fading:' .. at end

local function hold(owner, by)
  redis.call('HINCRBY', COUNTS, 'bytes', by)
  if redis.call('HINCRBY', HELD, owner, by) <= 0 then redis.call('HDEL', HELD, owner) end
end

-- What Redis holds of a job, by its own count. O(1): of a log it looks at the first nodes only. Vectors are there from its
-- end on.
local function job_bytes(id)
  -- Beside its hash a job has places in a lane, the deadlines and the leases, two times of expiry, an idempotency key.
  return (redis.call('MEMORY', 'USAGE', job_key(id), 'SAMPLES', 0) or 0) + 1024
end
local function vectors_bytes(id) return redis.call('MEMORY', 'USAGE', base .. ':vectors:' .. id) or 0 end
local function log_bytes(id) return redis.call('MEMORY', 'USAGE', log_key(id)) or 0 end

-- An unfinished job is counted with as much as its own field `bytes` says: what there is, and what is expected and not there
-- yet. Log probabilities come with the log; beside vectors there is next to none.
local function settle_bytes(id)
  local owner, before, expected = unpack(redis.call('HMGET', job_key(id), 'key_id', 'bytes', 'expected'))
  local bytes = job_bytes(id) + math.max(log_bytes(id), tonumber(expected or '0'))
  if bytes ~= tonumber(before or '0') then
    redis.call('HSET', job_key(id), 'bytes', bytes)
    hold(owner, bytes - tonumber(before or '0'))
  end
end

-- What is left of an ended job is counted until it expires. Nothing runs when a key does, so what expires within the same
-- ten seconds is one sum, and one of each key, taken off once they are over. Has it written, and returns their end.
local function span_end(after_s) return string.format('%d', math.ceil((NOW + after_s) / 10) * 10) end
local function fade(todo, owner, bytes, after_s)
  local at = span_end(after_s)
  if not redis.call('ZSCORE', FADING, at) then todo[#todo + 1] = {'ZADD', FADING, at, at} end
  todo[#todo + 1] = {'HINCRBY', span_key(at), '', bytes}
  todo[#todo + 1] = {'HINCRBY', span_key(at), owner, bytes}
  return at
end

-- The same for an ended job whose hash shrinks before its time.
local function fade_anew(id, after_s)
  local owner, at, before = unpack(redis.call('HMGET', job_key(id), 'key_id', 'fading_at', 'fading_bytes'))
  local todo, bytes = {}, job_bytes(id) + vectors_bytes(id)
  if at and redis.call('HEXISTS', span_key(at), owner) == 1 then
    todo = {{'HINCRBY', span_key(at), '', -before}, {'HINCRBY', span_key(at), owner, -before}}
  else
    before = 0
  end
  at = fade(todo, owner, bytes, after_s)
  todo[#todo + 1] = {'HSET', job_key(id), 'fading_at', at, 'fading_bytes', bytes}
  carry_out(todo)
  hold(owner, bytes - before)
end

local function forget_faded(limit)
  local patience = KEYS_FORGOTTEN_AT_ONCE
  for _, at in ipairs(redis.call('ZRANGEBYSCORE', FADING, '-inf', seconds(NOW), 'LIMIT', 0, limit)) do
    local sums = redis.call('HGETALL', span_key(at))
    for i = 1, #sums, 2 do
      if sums[i] ~= '' then hold(sums[i], -sums[i + 1]) end
    end
    redis.call('DEL', span_key(at))
    redis.call('ZREM', FADING, at)
    patience = patience - #sums / 2
    if patience <= 0 then return end
  end
end

-- All that is held of a model: its jobs, and the records of those that have ended.
local function held_bytes() return count('bytes') + traces_bytes() end
local function held_by(owner) return tonumber(redis.call('HGET', HELD, owner) or '0') end

local function holds_more(most)
  if held_bytes() <= most then return false end
  forget_faded(64)
  return held_bytes() > most
end
