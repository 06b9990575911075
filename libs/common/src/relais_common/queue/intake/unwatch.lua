-- An orchestrator's readers of these channels have left. Their watch leases run out unless others read them.
-- KEYS[1] base
-- ARGV: watcher, then repeated: id
for at = 2, #ARGV do
  local kept, watchers = {}, redis.call('HGET', job_key(ARGV[at]), 'watchers')
  for watcher in string.gmatch(watchers or '', '%S+') do
    if watcher ~= ARGV[1] then kept[#kept + 1] = watcher end
  end
  if #kept > 0 then
    redis.call('HSET', job_key(ARGV[at]), 'watchers', table.concat(kept, ' '))
  elseif watchers then
    redis.call('HDEL', job_key(ARGV[at]), 'watchers')
  end
end
return 1
