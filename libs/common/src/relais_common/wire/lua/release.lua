-- Hand jobs back to the front of the queue, at no charge to them.
-- KEYS[1] base
-- ARGV, repeated: id, fence
-- Returns how many were still held
local released = 0
for at = 1, #ARGV, 2 do
  if verdict(ARGV[at], ARGV[at + 1])[1] == 1 then
    requeue(ARGV[at])
    released = released + 1
  end
end
if released > 0 then ring() end
return released
