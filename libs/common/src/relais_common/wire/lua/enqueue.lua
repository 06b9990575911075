-- Accept a job. O(1).
-- KEYS[1] base
-- ARGV: id, payload, key_id, operation, priority, on_disconnect ('continue' | 'cancel'), deadline_s, log_ttl_s,
--       result_ttl_s, watch_grace_s, on_worker_loss ('fail' | 'restart'), trace ('none': without content | 'full' |
--       '' for no trace), max_waiting, max_inflight_per_key (0 for any number), max_stored_bytes (0 for any number),
--       idempotency key ('' for none), body hash, requests_per_minute, tokens_per_minute (0 for any number),
--       tokens to reserve, max_waiting_traces, watcher: the orchestrator whose client asks ('' where it has no presence)
-- Returns {'accepted', id, status, position, wait, requests used, tokens used of this minute}
--         | {'duplicate', id, status, position, wait} | {'conflict'} | {'full', waiting, wait} | {'key_full', open, wait}
--         | {'no_room', bytes, wait} | {'traces_full', waiting traces} | {'limited', requests used, tokens used}
local id, owner = ARGV[1], ARGV[3]
local max_waiting, max_open, max_bytes = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local idempotency, body_hash = ARGV[16], ARGV[17]

if redis.call('EXISTS', job_key(id)) == 1 then return known(id) end
if idempotency ~= '' then
  local first = redis.call('GET', idempotency)
  if first then
    local other, hash = string.match(first, '^(%S+) (%S+)$')
    if hash ~= body_hash then return {'conflict'} end
    if redis.call('EXISTS', job_key(other)) == 1 then return known(other) end
  end
end
local full, open = why_full(max_waiting), tonumber(redis.call('HGET', OPEN, owner) or '0')
if full then return full end
if max_open > 0 and open >= max_open then return {'key_full', open, estimated_wait(1)} end
-- `take` holds to it too, and has it from here.
if count('max_bytes') ~= max_bytes then redis.call('HSET', COUNTS, 'max_bytes', max_bytes) end
local no_room = why_no_room(#ARGV[2], max_bytes)
if no_room then return no_room end
local no_trace = ARGV[12] ~= '' and why_no_trace(tonumber(ARGV[21]), max_bytes)
if no_trace then return no_trace end
local requests_per_minute, tokens_per_minute = tonumber(ARGV[18]), tonumber(ARGV[19])
local fits, requests_used, tokens_used = reserve(owner, requests_per_minute, tokens_per_minute, tonumber(ARGV[20]))
if not fits then return {'limited', requests_used, tokens_used} end

local at, wait, gone_s = admit(unpack(ARGV, 1, 12))
if ARGV[6] == 'cancel' then note_watcher(id, ARGV[22]) end
if idempotency ~= '' then
  redis.call('SET', idempotency, id .. ' ' .. body_hash, 'EX', gone_s)
  redis.call('HSET', job_key(id), 'idempotency', idempotency)
end
if tokens_per_minute > 0 then
  redis.call('HSET', job_key(id), 'reserved', ARGV[20], 'tokens_per_minute', tokens_per_minute)
end
return {'accepted', id, 'queued', at, wait, requests_used, tokens_used}
