-- End a job its worker holds.
-- KEYS[1] base
-- ARGV: id, fence, first_seq (the terminal event's number), status, line, text
-- Returns a verdict {held, tail, stop}; a tail below first_seq - 1 says the log is short and nothing was done.
local id, fence, first_seq, status, line, text = unpack(ARGV)
local ended_by, tail = unpack(redis.call('HMGET', job_key(id), 'ended_by', 'tail'))
if ended_by == fence then return {1, tonumber(tail), ''} end
local answer = verdict(id, fence)
if answer[1] == 0 or answer[2] < tonumber(first_seq) - 1 then return answer end
redis.call('HSET', job_key(id), 'ended_by', fence)
conclude(id, status, line, text, false)
return {1, answer[2] + 1, ''}
