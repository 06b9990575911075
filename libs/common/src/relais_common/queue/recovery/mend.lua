-- Making whole what a step that stopped half-way, or keys that expired too soon, have left. After lib.lua.

local function keys_of(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

local function refill(list, items)
  redis.call('DEL', list)
  for at = 1, #items, 1000 do redis.call('RPUSH', list, unpack(items, at, math.min(at + 999, #items))) end
end

-- Those of a list that are still among these, once each and in its order, then the others.
local function in_old_order(list, wanted)
  local items, seen = {}, {}
  local function add(item)
    if wanted[item] and not seen[item] then seen[item], items[#items + 1] = true, item end
  end
  for _, item in ipairs(redis.call('LRANGE', list, 0, -1)) do add(item) end
  for _, item in ipairs(keys_of(wanted)) do add(item) end
  return items
end

local function expire_at_last(key, after_s)
  if redis.call('TTL', key) == -1 then redis.call('EXPIRE', key, after_s) end
end

-- Of every job that has not ended: is it where its status says? All that is counted is counted again. O(unfinished jobs).
local function mend()
  local seen, lanes, suspects, open, running, held, bytes = {}, {}, {}, {}, {}, {}, 0
  for _, priority in ipairs(PRIORITIES) do lanes[priority] = {} end
  local function note_held(owner, more)
    held[owner], bytes = (held[owner] or 0) + more, bytes + more
  end
  local images = {}

  local function look(id)
    if seen[id] then return end
    seen[id] = true
    local status, owner, priority, failures, barren, order, own, deadline_at, result_ttl_s, answers, places = unpack(redis.call(
      'HMGET', job_key(id), 'status', 'key_id', 'priority', 'failures', 'barren', 'order', 'bytes', 'deadline_at',
      'result_ttl_s', 'answers', 'images'))
    if status ~= 'queued' and status ~= 'running' then
      if not status then redis.call('DEL', log_key(id)) end
      for _, set in ipairs({INFLIGHT, DEADLINES, WATCHED}) do redis.call('ZREM', set, id) end
      return
    end
    local name = account(priority, owner)
    open[name] = (open[name] or 0) + (answers or 1)
    note_held(owner, tonumber(own or '0'))
    local gone_s = gone_after(math.max(0, deadline_at - NOW), result_ttl_s)
    expire_at_last(job_key(id), gone_s)
    expire_at_last(log_key(id), gone_s)
    for _, hash in ipairs(hashes_in(places or '')) do
      local image = images[owner .. ':' .. hash] or {owner = owner, jobs = 0, gone_s = 0}
      image.jobs, image.gone_s = image.jobs + 1, math.max(image.gone_s, gone_s)
      images[owner .. ':' .. hash] = image
    end
    if status == 'running' then
      running[name] = (running[name] or 0) + (answers or 1)
      -- Nobody has it under a lease: one that is over.
      redis.call('ZADD', INFLIGHT, 'NX', seconds(NOW), id)
      return
    end
    redis.call('ZREM', INFLIGHT, id)
    redis.call('ZADD', DEADLINES, 'NX', deadline_at, id)
    if is_suspect(failures, barren) then
      suspects[id] = true
    else
      local lane = lanes[priority][owner] or {}
      lanes[priority][owner], lane[#lane + 1] = lane, {id, tonumber(order)}
    end
    return priority
  end

  local waiting, by_priority = 0, {}
  for _, priority in ipairs(PRIORITIES) do by_priority[priority] = 0 end
  local function look_at_all(ids)
    for _, id in ipairs(ids) do
      local priority = look(id)
      if priority then waiting, by_priority[priority] = waiting + 1, by_priority[priority] + 1 end
    end
  end
  for _, set in ipairs({DEADLINES, INFLIGHT, WATCHED}) do look_at_all(redis.call('ZRANGE', set, 0, -1)) end
  look_at_all(redis.call('LRANGE', SUSPECTS, 0, -1))
  for _, priority in ipairs(PRIORITIES) do
    for _, owner in ipairs(redis.call('LRANGE', turns_key(priority), 0, -1)) do
      look_at_all(redis.call('LRANGE', lane_key(priority, owner), 0, -1))
    end
  end

  refill(SUSPECTS, in_old_order(SUSPECTS, suspects))
  for _, priority in ipairs(PRIORITIES) do
    local turns = in_old_order(turns_key(priority), lanes[priority])
    for _, owner in ipairs(redis.call('LRANGE', turns_key(priority), 0, -1)) do
      if not lanes[priority][owner] then forget_lane(priority, owner) end
    end
    for owner, lane in pairs(lanes[priority]) do
      table.sort(lane, function(one, other) return one[2] < other[2] end)
      local ids, popped = {}, count(lane_field(priority, owner, 'popped'))
      for at, job in ipairs(lane) do
        ids[at] = job[1]
        redis.call('HSET', job_key(job[1]), 'seq', popped + at)
      end
      refill(lane_key(priority, owner), ids)
      redis.call('HSET', COUNTS, lane_field(priority, owner, 'tombstones'), 0,
        lane_field(priority, owner, 'pushed'), popped + #ids)
    end
    refill(turns_key(priority), turns)
    redis.call('HSET', COUNTS, 'waiting:' .. priority, by_priority[priority])
  end
  for _, at in ipairs(redis.call('ZRANGE', FADING, 0, -1)) do
    local sums, all = redis.call('HGETALL', span_key(at)), 0
    for i = 1, #sums, 2 do
      if sums[i] ~= '' then
        note_held(sums[i], tonumber(sums[i + 1]))
        all = all + sums[i + 1]
      end
    end
    redis.call('HSET', span_key(at), '', all)
  end
  for _, name in ipairs(redis.call('SMEMBERS', IMAGES)) do images[name] = images[name] or {jobs = 0} end
  for name, image in pairs(images) do
    local key = image_named(name)
    if image.jobs > 0 and redis.call('HEXISTS', key, 'data') == 1 then
      local own = image_bytes(key)
      redis.call('HSET', key, 'jobs', image.jobs, 'bytes', own)
      redis.call('SADD', IMAGES, name)
      expire_image(image.gone_s, key)
      note_held(image.owner, own)
    else
      redis.call('UNLINK', key)
      redis.call('SREM', IMAGES, name)
    end
  end
  for key, numbers in pairs({[OPEN] = open, [RUNNING] = running, [HELD] = held}) do
    redis.call('DEL', key)
    for owner, number in pairs(numbers) do
      if number > 0 then redis.call('HSET', key, owner, number) end
    end
  end
  expire_at_last(base .. ':takers', 60)
  expire_at_last(WAKEUP, 3600)
  redis.call('HSET', COUNTS, 'waiting', waiting, 'bytes', bytes)
  redis.call('HDEL', COUNTS, 'drifted')
end

-- Carry out what steps have left to do. What fails again is left out: it may hold up nothing else.
local function redo(limit)
  for _ = 1, limit do
    local left = redis.call('LPOP', REDO)
    if not left then return end
    local todo = cmsgpack.unpack(left)
    pcall(redis.call, unpack(todo[1]))
    carry_out({unpack(todo, 2)})
  end
end
