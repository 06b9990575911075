-- Add events to the logs of several channels, and publish them. O(events).
-- KEYS[1] base
-- ARGV, repeated: id, fence, first_seq, emits ('1' | '0'), m, line 1 .. line m
-- Returns a list of verdicts {held, tail, stop}. A number already in the log is skipped; lines past the tail
-- are not written, and the tail says from where to send again.
local answers, at = {}, 1
while at <= #ARGV do
  local id, fence, first_seq, emits, m = unpack(ARGV, at, at + 4)
  first_seq, m = tonumber(first_seq), tonumber(m)
  local answer, progressed = verdict(id, fence)
  local tail = answer[2]
  if answer[1] == 1 and first_seq <= tail + 1 and first_seq + m - 1 > tail then
    local fresh, skip = {}, tail + 1 - first_seq
    for i = skip + 1, m do fresh[#fresh + 1] = ARGV[at + 4 + i] end
    -- Once a take: every write goes to the append-only file, and this one would double it. Before the tokens: those
    -- that are in the log without it would be made once more.
    if emits == '1' and not progressed then
      redis.call('HSETNX', job_key(id), 'emitted', seconds(NOW))
      redis.call('HSET', job_key(id), 'progressed', seconds(NOW))
    end
    append(id, tail + 1, fresh)
    answer[2] = tail + #fresh
  end
  answers[#answers + 1] = answer
  at = at + 5 + m
end
return answers
