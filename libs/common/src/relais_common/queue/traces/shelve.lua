-- Set records aside that no database takes, so that they hold up no other. Long contents are left out. O(records).
-- KEYS[1] base
-- ARGV: how many are kept, for how many seconds, then entry ids
-- Returns how many were still there
local kept, keep_s, there = ARGV[1], ARGV[2], 0
for at = 3, #ARGV do
  local entry = redis.call('XRANGE', TRACES, ARGV[at], ARGV[at])[1]
  if entry then
    local fields = entry[2]
    for i = 2, #fields, 2 do
      if #fields[i] > 65536 then fields[i] = '' end
    end
    redis.call('XADD', ASIDE, 'MAXLEN', kept, '*', unpack(fields))
    redis.call('EXPIRE', ASIDE, keep_s)
    redis.call('XDEL', TRACES, ARGV[at])
    there = there + 1
  end
  redis.call('XACK', TRACES, WRITERS, ARGV[at])
end
return there
