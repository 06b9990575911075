-- Hand jobs back. One that was asked to stop ends here.
-- KEYS[1] base
-- ARGV: crashed ('1' | '0' | 'blamed': each of these may be why the engine is stuck), `parting` of let_go (seven
--       values, see reap.lua), then repeated: id, fence
-- Returns how many were still held
local crashed, blamed, parting = ARGV[1] ~= '0', ARGV[1] == 'blamed', {unpack(ARGV, 2, 8)}
local released, requeued = 0, 0
for at = 9, #ARGV, 2 do
  local id = ARGV[at]
  if verdict(id, ARGV[at + 1])[1] == 1 then
    released = released + 1
    if let_go(id, crashed, parting, NOW, blamed) then requeued = requeued + 1 end
  end
end
if requeued > 0 then ring() end
return released
