-- Which worker had the beginning of a prompt last, and so is likely to have it in its prefix cache: that is the beginning's
-- home. Beginnings are named by hashes, a job's longest first. After lib.lua. Two generations, so that what is used stays and
-- the rest goes.

local HOMES, OLDER_HOMES, MOST_HOMES, HOMES_S = base .. ':homes', base .. ':homes:older', 4096, 3600
-- A worker without work asks every two seconds: one that has not for so long is busy, or has died.
local TAKERS, TAKER_S = base .. ':takers', 10

local function words(text)
  local found = {}
  for word in string.gmatch(text, '%S+') do found[#found + 1] = word end
  return found
end

local function home_of(beginnings)
  local names = words(beginnings)
  local newer, older = redis.call('HMGET', HOMES, unpack(names)), redis.call('HMGET', OLDER_HOMES, unpack(names))
  for at = 1, #names do
    if newer[at] or older[at] then return newer[at] or older[at] end
  end
end

-- A hint, so that its failure is none of the step's.
local function note_home(beginnings, worker)
  local fields = {}
  for _, name in ipairs(words(beginnings)) do fields[#fields + 1], fields[#fields + 2] = name, worker end
  local added = redis.pcall('HSET', HOMES, unpack(fields))
  if type(added) ~= 'number' or added == 0 then return end
  redis.pcall('EXPIRE', HOMES, HOMES_S)
  if redis.call('HLEN', HOMES) >= MOST_HOMES then redis.pcall('RENAME', HOMES, OLDER_HOMES) end
end

-- Whom a new job wakes: its home, where that one asked lately and had room, else anyone (nil).
local function home_with_room(beginnings)
  local home = beginnings ~= '' and redis.call('HLEN', TAKERS) > 1 and home_of(beginnings)
  local asked_at = home and string.match(redis.call('HGET', TAKERS, home) or '', '^%S+ (%S+)$')
  return asked_at and NOW - asked_at <= TAKER_S and home or nil
end
