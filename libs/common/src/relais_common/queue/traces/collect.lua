-- Hand a writer records of ended jobs: those it has already, then those that another one has held for too long, then new
-- ones. O(records). Sent twice, it gives the same again, until `written` or `shelve` has them.
-- KEYS[1] base
-- ARGV: writer, most records, most bytes (passed by ten records at most), claim_after_ms
-- Returns {1 where there may be more, else 0; a list of {entry id, a list of name, value, ...}}
local writer, most, most_bytes, claim_after_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local found, seen, bytes = {}, {}, 0
if redis.call('EXISTS', TRACES) == 0 then return {0, found} end
if #redis.call('XINFO', 'GROUPS', TRACES) == 0 then redis.call('XGROUP', 'CREATE', TRACES, WRITERS, 0) end

local function how_many() return bytes < most_bytes and math.min(10, most - #found) or 0 end

local function add(entries)
  for _, entry in ipairs(entries) do
    local id, fields = entry[1], entry[2]
    if not fields then
      redis.call('XACK', TRACES, WRITERS, id)  -- somebody has deleted it
    elseif not seen[id] then
      seen[id], found[#found + 1] = true, entry
      for at = 2, #fields, 2 do bytes = bytes + #fields[at] end
    end
  end
end

local function read(after)
  local answer = redis.call('XREADGROUP', 'GROUP', WRITERS, writer, 'COUNT', how_many(), 'STREAMS', TRACES, after)
  return answer and answer[1][2] or {}
end

local after = '0'
while after and how_many() > 0 do
  local entries = read(after)
  add(entries)
  after = #entries > 0 and entries[#entries][1]
end
local cursor
while cursor ~= '0-0' and how_many() > 0 do
  local answer = redis.call('XAUTOCLAIM', TRACES, WRITERS, writer, claim_after_ms, cursor or '0', 'COUNT', how_many())
  cursor = answer[1]
  add(answer[2])
end
local more = true
while more and how_many() > 0 do
  local entries = read('>')
  add(entries)
  more = #entries > 0
end
-- Writers that were not heard of for long, and hold nothing.
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', TRACES, WRITERS)) do
  local name, pending, idle_ms = info[2], info[4], info[6]
  if pending == 0 and idle_ms > 100 * claim_after_ms then redis.call('XGROUP', 'DELCONSUMER', TRACES, WRITERS, name) end
end
return {how_many() > 0 and 0 or 1, found}
