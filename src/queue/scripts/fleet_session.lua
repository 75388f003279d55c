-- A visitor's turn: the right to act, and with it a request to the provider; who has not the one gets not the other.
-- ARGV: holder ms fresh insist interval age class budget, and a machine that is about to be started, if any:
-- workers that come up on it are welcome again. Returns what fleet_lock.lua says and, where that is MINE,
-- what rate_limit.lua says.
-- The name of a visit is its family's, a colon and its own. One that has let its time run out does not come
-- back: the next of the family need not wait for it.
local function family(name)
  return string.match(name, '^[^:]+:')
end
local l = redis.call('HMGET', lock, 'holder', 'until')
local kin = l[1] and family(l[1]) and family(l[1]) == family(ARGV[2])
local insist = kin and tonumber(l[2]) <= clock() and '1' or ARGV[5]
local held = hold({ P, 'hold', ARGV[2], ARGV[3], ARGV[4], insist })
if held[1] ~= 'MINE' then return { held } end
local may = slot({ P, ARGV[6], ARGV[7], 'slot', ARGV[8], ARGV[9] })
if may[1] == 'GO' and ARGV[10] then redis.call('ZREM', retired, ARGV[10]) end
return { held, may }
