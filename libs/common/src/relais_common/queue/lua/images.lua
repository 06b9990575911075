-- Images, which lie apart from the jobs that have them: once for each key, however many of its jobs have them. Not once for
-- all keys: what one key may still have stored would tell it what others have. Between stored.lua and lib.lua.

local IMAGES = base .. ':images'
-- Its name among them is '<owner>:<hash>'.
local function image_named(name) return base .. ':image:' .. name end
local function image_key(owner, hash) return image_named(owner .. ':' .. hash) end

-- The images of a job, each once. `places` is its field `images`: '<bytes before it>:<hash>' for each place in the payload.
local function hashes_in(places)
  local hashes, seen = {}, {}
  for hash in string.gmatch(places, ':(%x+)') do
    if not seen[hash] then seen[hash], hashes[#hashes + 1] = true, hash end
  end
  return hashes
end

-- The pieces of a payload with its images, each in place of what stands for it up to the next quotation mark, and how many bytes
-- they have; nil where an image is gone. Not one text: to join them here would take as long again as to read them.
local function with_images(payload, owner, places)
  local pieces, from, bytes = {}, 1, 0
  for at, hash in string.gmatch(places, '(%d+):(%x+)') do
    local image = redis.call('HGET', image_key(owner, hash), 'data')
    if not image then return end
    pieces[#pieces + 1] = string.sub(payload, from, at)
    pieces[#pieces + 1] = image
    bytes = bytes + #image
    from = string.find(payload, '"', at + 1, true)
  end
  pieces[#pieces + 1] = string.sub(payload, from)
  return pieces, bytes + #payload
end

-- As `job_bytes`; its name has two places in all.
local function image_bytes(key) return redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) + 256 end

local function expire_no_sooner(after_s, key)
  if redis.call('TTL', key) < after_s then redis.call('EXPIRE', key, after_s) end
end

-- The names outlive the image by an hour, so that the reaper can find that it expired before it was released.
local function expire_image(gone_s, key)
  expire_no_sooner(gone_s, key)
  expire_no_sooner(gone_s + 3600, IMAGES)
end

local function drop_image(owner, hash)
  local key = image_key(owner, hash)
  local bytes = redis.call('HGET', key, 'bytes')
  redis.call('UNLINK', key)
  redis.call('SREM', IMAGES, owner .. ':' .. hash)
  hold(owner, -(bytes or 0))
  -- It expired, or somebody deleted it: what was counted for it is not known.
  if not bytes then redis.call('HSET', COUNTS, 'drifted', 1) end
end

-- A job's payload is gone.
local function release_images(owner, places)
  for _, hash in ipairs(hashes_in(places)) do
    if redis.call('HINCRBY', image_key(owner, hash), 'jobs', -1) <= 0 then drop_image(owner, hash) end
  end
end
