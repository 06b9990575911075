-- Put behind every script, which is the function `step`. One that stops half-way leaves word of it: the next reaper looks at
-- every job and mends what is not whole.
local done, answer = pcall(step)
if done then return answer end
redis.pcall('HSET', COUNTS, 'drifted', 1)
error(answer, 0)
