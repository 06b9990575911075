-- Hold on to jobs, and count how large their logs have become.
-- KEYS[1] base
-- ARGV: lease_s, then repeated: id, fence
-- Returns a list of verdicts {held, tail, stop}
local answers = {}
for at = 2, #ARGV, 2 do
  local id, fence = ARGV[at], ARGV[at + 1]
  local answer = verdict(id, fence)
  if answer[1] == 1 then
    redis.call('ZADD', INFLIGHT, seconds(NOW + tonumber(ARGV[1])), id)
    settle_bytes(id)
  end
  answers[#answers + 1] = answer
end
return answers
