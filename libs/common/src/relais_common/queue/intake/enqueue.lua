-- Accept a job. O(1).
-- KEYS[1] base
-- ARGV: id, payload, key_id, operation, priority, on_disconnect ('continue' | 'cancel'), deadline_s, log_ttl_s,
--       result_ttl_s, watch_grace_s, on_worker_loss ('fail' | 'restart'), trace ('none': without content | 'full' |
--       '' for no trace), max_waiting, max_inflight_per_key (0 for any number), max_stored_bytes (0 for any number),
--       idempotency key ('' for none), body hash, requests_per_minute, tokens_per_minute (0 for any number),
--       tokens to reserve, max_waiting_traces, watcher: the orchestrator whose client asks ('' where it has no presence),
--       bytes that its result is expected to have
-- Returns {'accepted', id, status, position, wait, requests used, tokens used of this minute}
--         | {'duplicate', id, status, position, wait} | {'conflict'} | {'full', waiting, wait} | {'key_full', open, wait}
--         | {'no_room', bytes, wait} | {'key_no_room', bytes of this key, wait} | {'traces_full', waiting traces}
--         | {'limited', requests used, tokens used}
local id, owner = ARGV[1], ARGV[3]
local max_waiting, max_open, max_bytes = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
local idempotency, body_hash = ARGV[16], ARGV[17]
local SPANS_SEEN = 128

-- Seconds until what fades leaves so much room, or until the last that was looked at fades. Ends of jobs may be sooner,
-- where what unfinished ones hold is enough: as many as hold what is missing.
local function wait_for_room(fits, held, own)
  local missing, spans = fits(held, own), redis.call('ZRANGE', FADING, 0, SPANS_SEEN - 1)
  local fades_in = 1
  for _, at in ipairs(spans) do
    local all, mine = unpack(redis.call('HMGET', span_key(at), '', owner))
    held, own, fades_in = held - (all or 0), own - (mine or 0), at - NOW
    if fits(held, own) <= 0 then break end
  end
  local unfinished, jobs = held - traces_bytes(), count('waiting') + redis.call('ZCARD', INFLIGHT)
  local ends_in = jobs > 0 and unfinished >= missing and tonumber(estimated_wait(math.ceil(missing * jobs / unfinished)))
  return seconds(math.max(1, ends_in and (#spans == 0 or ends_in < fades_in) and ends_in or fades_in))
end

-- What is answered where there is no room for so many bytes more; nil where there is. A quarter of `most` is left to the
-- answers of those that are accepted. Who holds more than an even share of the rest is told that it is his own.
local function why_no_room(bytes, most)
  if most == 0 then return end
  local room = most * 0.75
  -- Bytes that are missing until a key with so many of its own, of so many in all, holds SHARE times what is free.
  local function fits(held, own) return (own + bytes - SHARE * (room - held - bytes)) / (1 + SHARE) end
  if fits(held_bytes(), held_by(owner)) <= 0 then return end
  forget_faded(64)
  local held, own = held_bytes(), held_by(owner)
  if fits(held, own) <= 0 then return end
  local wait = wait_for_room(fits, held, own)
  if own * (redis.call('HLEN', HELD) + 1) > room then return {'key_no_room', own, wait} end
  return {'no_room', held, wait}
end

if redis.call('EXISTS', job_key(id)) == 1 then return known(id) end
if idempotency ~= '' then
  local first = redis.call('GET', idempotency)
  if first then
    local other, hash = string.match(first, '^(%S+) (%S+)$')
    if hash ~= body_hash then return {'conflict'} end
    if redis.call('EXISTS', job_key(other)) == 1 then return known(other) end
  end
end
local open = tonumber(redis.call('HGET', OPEN, owner) or '0')
local full = why_full(max_waiting, open)
if full then return full end
if max_open > 0 and open >= max_open then return {'key_full', open, estimated_wait(1)} end
-- `take` holds to it too, and has it from here.
if count('max_bytes') ~= max_bytes then redis.call('HSET', COUNTS, 'max_bytes', max_bytes) end
-- A store that is small beside what it may hold is not filled by what is only expected.
local expected = max_bytes > 0 and math.min(tonumber(ARGV[23]), math.floor(max_bytes / 8)) or 0
local no_room = why_no_room(#ARGV[2] + expected, max_bytes)
if no_room then return no_room end
local no_trace = ARGV[12] ~= '' and why_no_trace(tonumber(ARGV[21]), max_bytes)
if no_trace then return no_trace end
local requests_per_minute, tokens_per_minute = tonumber(ARGV[18]), tonumber(ARGV[19])
local fits, requests_used, tokens_used = used_with(owner, requests_per_minute, tokens_per_minute, tonumber(ARGV[20]))
if not fits then return {'limited', seconds(requests_used), seconds(tokens_used)} end

local further = {}
if expected > 0 then further.expected = expected end
if ARGV[6] == 'cancel' and ARGV[22] ~= '' then further.watchers = ARGV[22] end
if tokens_per_minute > 0 then further.reserved, further.tokens_per_minute = ARGV[20], tokens_per_minute end
if idempotency ~= '' then
  -- Before the job itself: without it, a repetition would make another one.
  redis.call('SET', idempotency, id .. ' ' .. body_hash, 'EX', gone_after(ARGV[7], ARGV[9]))
  further.idempotency = idempotency
end
local at, wait = admit(id, ARGV[2], owner, ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11],
  ARGV[12], further)
if requests_per_minute > 0 then
  redis.call(unpack(noting_used('requests', owner, requests_per_minute, requests_used)))
end
if tokens_per_minute > 0 then redis.call(unpack(noting_used('tokens', owner, tokens_per_minute, tokens_used))) end
return {'accepted', id, 'queued', at, wait, seconds(requests_used), seconds(tokens_used)}
