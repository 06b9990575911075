-- End a job its worker holds.
-- KEYS[1] base
-- ARGV: id, fence, first_seq (number of the first line), status, text, usage ('<input> <output> <cached>' tokens, or ''),
--       vectors ('' for none), line 1 .. line m; the last is the terminal event
-- Returns a verdict {held, tail, stop}; a tail below first_seq - 1 says the log is short and nothing was done.
local id, fence, first_seq, status, text, usage, vectors = unpack(ARGV, 1, 7)
local ended_by, tail = unpack(redis.call('HMGET', job_key(id), 'ended_by', 'tail'))
if ended_by == fence then return {1, tonumber(tail), ''} end
local answer = verdict(id, fence)
local skip = answer[2] + 1 - tonumber(first_seq)
if answer[1] == 0 or skip < 0 then return answer end
local lines = {}
for at = math.min(8 + skip, #ARGV), #ARGV do lines[#lines + 1] = ARGV[at] end
if vectors ~= '' then
  local result_ttl = redis.call('HGET', job_key(id), 'result_ttl_s')
  redis.call('SET', base .. ':vectors:' .. id, vectors, 'EX', math.ceil(tonumber(result_ttl)))
end
conclude(id, status, lines, text, false, usage, fence)
return {1, answer[2] + #lines, ''}
