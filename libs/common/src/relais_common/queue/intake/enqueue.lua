-- Accept jobs, each by itself. O(1) for each.
-- KEYS[1] base
-- ARGV, of each job as `each` reads it: `JobArguments` and `EnqueueArguments`, under the names that are unpacked below. Of
--       these
--       owner: the key's id
--       on_disconnect: 'continue' | 'cancel'; on_worker_loss: 'fail' | 'restart'
--       trace: 'none', without content, | 'full' | '' for no trace
--       max_open: unfinished answers of the key; it, max_bytes and what is per minute or day are 0 for any number
--       idempotency: a Redis key, '' for none
--       tokens: to be reserved
--       watcher: the orchestrator whose client asks, '' where it has no presence
--       expected_bytes: of the result
--       answers: how many it has
--       beginnings: names of what its prompt begins with, the longest first; '' for none
--       record, record_input: what the API keeps with it, '' for nothing; stored: 1 where it goes to the database
--       shards: over how many queues its model is spread
--       images: the places of those that lie apart (`hashes_in`), '' for none; after it each of them, once
-- Returns a list, for each job an error or {'accepted', id, status, position, wait, requests used, tokens used of this minute}
--         | {'duplicate', id, status, position, wait} | {'conflict'} | {'full', waiting, wait} | {'key_full', open, wait}
--         | {'no_room', bytes, wait} | {'key_no_room', bytes of this key, wait} | {'traces_full', waiting traces}
--         | {'limited', requests used, tokens used, seconds for which the day is full}
local SPANS_SEEN = 128

-- Seconds until what fades leaves so much room, or until the last that was looked at fades. Ends of jobs may be sooner,
-- where what unfinished ones hold is enough: as many as hold what is missing.
local function wait_for_room(owner, fits, held, own)
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

-- What is answered where there is no room for so many bytes more than the `held` ones of all jobs; nil where there is. A
-- quarter of `most` is left to the answers of those that are accepted. Who holds more than an even share of the rest is told
-- that it is his own.
local function why_no_room(owner, held, bytes, most)
  if most == 0 then return end
  local room = most * 0.75
  -- Bytes that are missing until a key with so many of its own, of so many in all, holds SHARE times what is free.
  local function fits(held, own) return (own + bytes - SHARE * (room - held - bytes)) / (1 + SHARE) end
  if fits(held + traces_bytes(), held_by(owner)) <= 0 then return end
  forget_faded(64)
  held = held_bytes()
  local own = held_by(owner)
  if fits(held, own) <= 0 then return end
  local wait = wait_for_room(owner, fits, held, own)
  if own * (redis.call('HLEN', HELD) + 1) > room then return {'key_no_room', own, wait} end
  return {'no_room', held, wait}
end

-- Bytes of a job's images that its key does not have yet.
local function new_image_bytes(owner, images, first)
  local bytes = 0
  for at, hash in ipairs(hashes_in(images)) do
    if redis.call('EXISTS', image_key(owner, hash)) == 0 then bytes = bytes + #ARGV[first + at - 1] end
  end
  return bytes
end

-- A job is about to have these. They expire no sooner than it does.
local function keep_images(owner, images, first, gone_s)
  for at, hash in ipairs(hashes_in(images)) do
    local key = image_key(owner, hash)
    local known_before = redis.call('SADD', IMAGES, owner .. ':' .. hash) == 0
    redis.call('HINCRBY', key, 'jobs', 1)
    if redis.call('HSETNX', key, 'data', ARGV[first + at - 1]) == 1 then
      local bytes = image_bytes(key)
      redis.call('HSET', key, 'bytes', bytes)
      hold(owner, bytes)
      -- Its key was deleted: it has lost the number of jobs, and its bytes are counted twice.
      if known_before then redis.call('HSET', COUNTS, 'drifted', 1) end
    end
    expire_image(gone_s, key)
  end
end

local for_anyone = 0
local function accept(from, to)
  local id, payload, owner, operation, priority, on_disconnect, deadline_s, log_ttl_s, result_ttl_s, watch_grace_s,
    on_worker_loss, trace, max_waiting, max_open, max_bytes, idempotency, body_hash, requests_per_minute,
    tokens_per_minute, tokens_per_day, tokens, max_traces, watcher, expected_bytes, answers, beginnings, record,
    record_input, stored, shards, images = unpack(ARGV, from, to)
  max_open, max_bytes, answers = tonumber(max_open), tonumber(max_bytes), tonumber(answers)
  requests_per_minute, tokens_per_minute = tonumber(requests_per_minute), tonumber(tokens_per_minute)

  if redis.call('EXISTS', job_key(id)) == 1 then return known(id) end
  if idempotency ~= '' then
    local first = redis.call('GET', idempotency)
    if first then
      local other, hash = string.match(first, '^(%S+) (%S+)$')
      if hash ~= body_hash then return {'conflict'} end
      if redis.call('EXISTS', job_key(other)) == 1 then return known(other) end
    end
  end
  local open = tonumber(redis.call('HGET', OPEN, account(priority, owner)) or '0')
  local waiting, last_max, held = unpack(redis.call('HMGET', COUNTS, 'waiting', 'max_bytes', 'bytes'))
  local full = why_full(tonumber(max_waiting), open, tonumber(waiting or '0'))
  if full then return full end
  if max_open > 0 and open + answers > max_open then return {'key_full', open, estimated_wait(1)} end
  -- `take` holds to it too, and has it from here.
  if tonumber(last_max or '0') ~= max_bytes then redis.call('HSET', COUNTS, 'max_bytes', max_bytes) end
  -- A store that is small beside what it may hold is not filled by what is only expected.
  local expected = max_bytes > 0 and math.min(tonumber(expected_bytes), math.floor(max_bytes / 8)) or 0
  -- Behind what was unpacked.
  local first_image, bytes = from + 31, #payload + #record + #record_input + expected
  if images ~= '' then bytes = bytes + new_image_bytes(owner, images, first_image) end
  local no_room = why_no_room(owner, tonumber(held or '0'), bytes, max_bytes)
  if no_room then return no_room end
  local no_trace = trace ~= '' and why_no_trace(tonumber(max_traces), max_bytes)
  if no_trace then return no_trace end
  local fits, requests_used, tokens_used, day_full = used_with(owner, priority, requests_per_minute, tokens_per_minute,
    tonumber(tokens_per_day), tonumber(tokens))
  if not fits then return {'limited', seconds(requests_used), seconds(tokens_used), seconds(day_full)} end

  local further = {}
  if expected > 0 then further.expected = expected end
  if answers > 1 then further.answers = answers end
  if tonumber(shards) > 1 then further.shards = shards end
  if record ~= '' then further.record, further.record_input, further.stored = record, record_input, stored end
  if on_disconnect == 'cancel' and watcher ~= '' then further.watchers = watcher end
  if tokens_per_minute > 0 then further.reserved, further.tokens_per_minute = tokens, tokens_per_minute end
  if idempotency ~= '' then
    -- Before the job itself: without it, a repetition would make another one.
    redis.call('SET', idempotency, id .. ' ' .. body_hash, 'EX', gone_after(deadline_s, result_ttl_s))
    further.idempotency = idempotency
  end
  if images ~= '' then
    further.images = images
    keep_images(owner, images, first_image, gone_after(deadline_s, result_ttl_s))
  end
  local home = home_with_room(beginnings)
  if beginnings ~= '' then further.beginnings = beginnings end
  local at, wait = admit(id, payload, owner, operation, priority, on_disconnect, deadline_s, log_ttl_s, result_ttl_s,
    watch_grace_s, on_worker_loss, trace, further)
  -- A home that has not heard the ring before may be busy, or gone.
  if not home or ring(1, home) > 1 then for_anyone = for_anyone + 1 end
  if requests_per_minute > 0 then
    redis.call(unpack(noting_used('requests', owner, requests_per_minute, requests_used)))
  end
  if tokens_per_minute > 0 then redis.call(unpack(noting_used('tokens', owner, tokens_per_minute, tokens_used))) end
  return {'accepted', id, 'queued', at, wait, seconds(requests_used), seconds(tokens_used)}
end

local told = each(accept)
ring(for_anyone)
return told
