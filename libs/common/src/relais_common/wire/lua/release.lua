-- Hand jobs back to the front of the queue, at no charge to them. One that was asked to stop ends here.
-- KEYS[1] base
-- ARGV: expired line, disconnected line, cancelled line, then repeated: id, fence
-- Returns how many were still held
local released, requeued = 0, 0
for at = 4, #ARGV, 2 do
  local id = ARGV[at]
  local held, _, stop = unpack(verdict(id, ARGV[at + 1]))
  if held == 1 then
    released = released + 1
    if stop ~= '' then
      conclude_stopped(id, stop, ARGV[1], ARGV[2], ARGV[3])
    else
      requeue(id)
      requeued = requeued + 1
    end
  end
end
if requeued > 0 then ring() end
return released
