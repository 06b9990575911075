-- Note that the engine has accepted prompts. What a successor needs to go on is stored with each job.
-- KEYS[1] base
-- ARGV, of each job as `each` reads it: id, fence, started line, token ids of its prompts so far (JSON), model revision
-- Returns a list of verdicts {held, tail, stop}, or errors
return each(function(from, to)
  local id, fence, line, token_ids, revision = unpack(ARGV, from, to)
  local answer = verdict(id, fence)
  if answer[1] == 0 then return answer end
  redis.call('HSET', job_key(id), 'engaged', 1, 'prompt_token_ids', token_ids, 'model_revision', revision)
  if redis.call('HSETNX', job_key(id), 'started_at', seconds(NOW)) == 1 then
    local done, problem = pcall(append, id, answer[2] + 1, {line})
    if not done then
      -- Sent again, it is the first time once more.
      redis.call('HDEL', job_key(id), 'started_at')
      error(problem, 0)
    end
    answer[2] = answer[2] + 1
  end
  return answer
end)
