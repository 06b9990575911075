-- Somebody reads this channel.
-- KEYS[1] base
-- ARGV: id, lease_s
redis.call('ZADD', WATCHED, 'XX', seconds(NOW + tonumber(ARGV[2])), ARGV[1])
return 1
