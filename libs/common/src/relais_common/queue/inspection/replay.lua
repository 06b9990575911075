-- Queue a dead letter's request anew, on a channel of its own: the old one has had its last event.
-- KEYS[1] base
-- ARGV: dead letter's id, max_waiting, then `JobArguments`, as `enqueue` has them; none where there is no request. Its
--       trace is kept as the old one's was
-- Returns {'accepted' | 'duplicate', id, status, position, wait} | {'full', waiting, wait} | {'image_lost'}, or false where it is no dead
-- letter (any more)
local letter, max_waiting, id, payload, owner, operation, priority, on_disconnect, deadline_s, log_ttl_s, result_ttl_s,
  watch_grace_s, on_worker_loss = unpack(ARGV)
local key = job_key(letter)
local status, replayed_as, trace, answers, images = unpack(redis.call('HMGET', key, 'status', 'replayed_as', 'trace',
  'answers', 'images'))
local queued = replayed_as and redis.call('EXISTS', job_key(replayed_as)) == 1
local whole = redis.call('HEXISTS', key, 'payload') == 1
if queued and not whole then return known(replayed_as) end
if status ~= 'failed' or not whole then return false end
-- Its payload lacks them: one was gone, or a version that knows nothing of images set it aside.
if images then return {'image_lost'} end
-- It says so first: a step that stopped half-way is taken up where it was.
if replayed_as then id = replayed_as end
local full = not queued and why_full(tonumber(max_waiting), 1, count('waiting'))
if full then return full end

redis.call('HSET', key, 'replayed_as', id)
local at, wait
if not queued then
  at, wait = admit(id, payload, owner, operation, priority, on_disconnect, deadline_s, log_ttl_s, result_ttl_s,
    watch_grace_s, on_worker_loss, trace or '', {answers = answers or nil})
  ring()
end
redis.call('LREM', DEAD, 0, letter)
redis.call('HDEL', key, 'payload')
fade_anew(letter, redis.call('TTL', key))
if queued then return known(id) end
return {'accepted', id, 'queued', at, wait}
