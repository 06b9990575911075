-- End jobs that their worker holds.
-- KEYS[1] base
-- ARGV, of each job as `each` reads it: id, fence, first_seq (number of the first line), status, text, usage ('<input>
--       <output> <cached>' tokens, or ''), vectors ('' for none), line 1 .. line m; the last is the terminal event
-- Returns a list of verdicts {held, tail, stop}, or errors; a tail below first_seq - 1 says the log is short and nothing was
-- done
return each(function(from, to)
  local id, fence, first_seq, status, text, usage, vectors = unpack(ARGV, from, from + 6)
  local answer = verdict(id, fence)
  if answer[1] == 0 then
    local ended_by, tail = unpack(redis.call('HMGET', job_key(id), 'ended_by', 'tail'))
    return ended_by == fence and {1, tonumber(tail), ''} or answer
  end
  local skip = answer[2] + 1 - tonumber(first_seq)
  if skip < 0 then return answer end
  local lines = {}
  for at = math.min(from + 7 + skip, to), to do lines[#lines + 1] = ARGV[at] end
  if vectors ~= '' then
    local result_ttl = redis.call('HGET', job_key(id), 'result_ttl_s')
    redis.call('SET', base .. ':vectors:' .. id, vectors, 'EX', math.ceil(tonumber(result_ttl)))
  end
  conclude(id, status, lines, text, false, usage, fence)
  return {1, answer[2] + #lines, ''}
end)
