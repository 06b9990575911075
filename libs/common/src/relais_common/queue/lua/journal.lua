-- Writes that must all come, each once, after a job has ended. Between core.lua and accounts.lua.

local REDO, REDO_S = base .. ':redo', 604800

-- Carry them out in order. Those left where one fails are kept, and the reaper carries them out.
local function carry_out(todo)
  for at = 1, #todo do
    if not pcall(redis.call, unpack(todo[at])) then
      redis.call('RPUSH', REDO, cmsgpack.pack({unpack(todo, at)}))
      redis.call('EXPIRE', REDO, REDO_S)
      return
    end
  end
end
