"""What customers say to a support desk, by intent: `[a|b]` is a choice, `{slot}` a value of `phrases.SLOTS`.

All intents draw from the same slots, so that a product or a day gives no intent away. Next is `phrases`.
"""

from typing import Final

TEMPLATES: Final[dict[str, str]] = {
    "account_access": """
    I [can't|cannot|am unable to] [log in|sign in|log on] [to my account|to the {software}|since {day}]
    I [forgot|have forgotten|lost|don't remember] my [password|user name|login|PIN]
    [forgot password|password reset|login problem|cannot log in|account locked|reset my password]
    How [can|do] I [reset|change|recover] [my password|the password|my login details]?
    My account [has been|is|was] [locked|blocked|suspended|disabled] [after too many attempts|since {day}]
    The [password|reset] e-mail [never arrives|does not arrive|isn't in my inbox|has not come]
    I [never|don't] [get|receive] the [SMS with the code|login code|confirmation code] [on my phone|by e-mail|]
    I have a new [phone|number] and [can't|cannot] [pass|confirm] the two-factor [check|authentication]
    The authenticator app [is gone|was on my old phone|shows a wrong code], how do I [log in|get access]?
    [I think|I fear|It looks like] [my account was hacked|someone broke into my account]
    There was a login from {place} that [wasn't me|I don't recognise]
    Please [change|update] the e-mail address of my [account|login|profile]
    I no longer [have|use] the e-mail address [that I signed up with|of my account]
    Your {software} [says|tells me] [invalid password|wrong user name or password]
    My [username|user id] [isn't|is not] [recognised|accepted|working]
    How do I [turn on|switch off|set up] two-step verification?
    [Can|Could] you [restore|give me back] [access to my account|my access]?
    My [colleague|wife|son|employee] [needs|should get] access to our account [too|as well]
    I'm [stuck at|thrown out at|not getting past] the login [screen|page]
    The {software} [logs me out|signs me out] [again and again|every few minutes] and wants my password
    Which e-mail address [did I sign up with|is my account under]?
    The password reset link [is invalid|doesn't work|is out of date|leads nowhere]
    [Help|Please help], I can't [access|get into|open] my account
    I [typed|entered] the wrong password [three|five] times and now [I am blocked|my account is frozen]
    Please [unblock|unlock|reactivate|reset] my [account|pw|password]
    I want to [change|edit] [my user name|the name on my account|my security question]
    Someone [changed|stole] my password and I [am shut out|have no access]
    Signing in with [Google|Apple|Facebook] [fails|brings up someone else's account|no longer lets me in]
    I can't [create|register] [an account|my new account], it says the e-mail is already [taken|in use]
    I [just] want to [get in|log in] and see my orders, but it rejects my [password|details]
    Every time I [log in|sign in] I [end up|land] [on the start page|in an endless loop|on an empty page]
    [What's|Where do I find] my [customer number|user name|login]?
    The [fingerprint|face recognition|PIN] isn't accepted [at sign-in|when I log in|any more]
    I [set|chose] a new password, [but the {software} still wants the old one|and still can't get in]
    May I have a temporary password [for my account|please|]?
    I believe [my password was leaked|somebody knows my password]. [How do I secure my account?|What now?]
    I [changed|lost] my [phone|SIM card], so I can't [receive the login code|authenticate]
    My login [worked {when}|was fine {when}] and today [I am refused|it says access denied]
    Nobody in our office can [log in|get into our account] [today|since {day}]
    Can [two people|my family] use the same login?
    The [captcha|robot check] [won't let me in|never accepts my answer]
    I [own|have] two accounts, can you merge them [under one e-mail|]?
    Please send the [activation|verification] [mail|link] again
    I'd like [a new login|a new PIN|new credentials] for [the {software}|my customer account|the customer area]
    [What do I do|Whom do I call], [the {software} denies me entry|my sign-in fails|my account is blocked]?
    """,
    "billing": """
    I [was|have been|got] [charged|billed] [twice|two times|double] for [the {product}|{order}|{month}]
    Why [was I|have I been] [charged|billed] {amount} [in {month}|on {day}|this time]?
    There is [a charge|a payment] of {amount} on my [card|account] that I [don't recognise|can't explain]
    [Please|Could you|Can you] send me the invoice for [{month}|{order}|the {product}]
    I need [an invoice|a receipt|a tax invoice|a bill] for [{month}|my taxes|my company|{order}]
    [invoice please|wrong amount on invoice|double charge|billing question|update credit card|payment failed]
    [How do I|Where can I] [change|update|replace] my [credit card|payment method|bank details]?
    My [payment|card|credit card] [was declined|was rejected|is not accepted] [at checkout|for {order}]
    [Which|What] [payment methods|credit cards|cards] do you [accept|offer]?
    Can I pay [by invoice|by bank transfer|in instalments|with a gift card|in cash|with Apple Pay]?
    The [invoice|bill] [for {month}] is [wrong|too high|not correct|higher than agreed]
    The [price|amount] on the [bill|invoice|receipt] [isn't|is not] what [the {software} showed|I agreed to]
    My {plan} [costs|got] {amount} more [than before|than last year|without notice]
    Why did the price of my {plan} [rise|increase|go up]?
    My [voucher|coupon|promo code|discount] was not [applied|taken off|deducted]
    When will [the money|the payment|my card] be [debited|charged|taken]?
    Our VAT number [is missing on|should be on] the invoice
    Please [put|use] [our new company name|another address] on [the invoice|our bills]
    I [see|found] an unknown [payment|charge|fee] on my [statement|credit card bill]
    You [charged|debited|billed] [the wrong card|my old card|me too much|me for something I never bought]
    I [paid|have paid] [{order}|the bill], but [it still shows as unpaid|I got a reminder]
    I'd like to [switch to|have] [yearly|monthly|quarterly] [payment|billing]
    What [is|are] [this fee|the service fee|the {amount}] [for|on my bill about]?
    The [receipt|invoice] for [{order}|the {product}] [has not arrived|is missing|can't be downloaded]
    I [got|received] a [payment reminder|late fee|dunning letter] though I [paid|transferred the money] {when}
    We [are charged|pay] for [more users|ten licences|a {plan}] than we [have|use]
    Do your prices include [tax|VAT]?
    How much will I [have to pay|be charged] [each month|next month|from {month}]?
    Can I [spread|divide] the [price|payment|cost] over [six months|a year]?
    Can I get [a copy of|all] my [invoices|receipts] for [last year|{month}]?
    [My bank says|The bank tells me] you [took|withdrew] {amount} [on {day}|two times|without my permission]
    The card [you have on file|I pay with] [runs out|expires] in {month}, where do I put the new number?
    The total [at checkout|on the receipt] [doesn't add up|is {amount} more than it should be]
    [My|The] [gift card|voucher code] [is not accepted|shows no balance] when I [pay|check out]
    [Who do I ask|I have a question] about [a bill|our last invoice|a payment]?
    I'm a [student|nurse|pensioner], do I [get|pay] a [reduced price|discount]?
    We'd rather pay [each quarter|against invoice|from another bank account]
    [Your direct debit|The standing order] [bounced|came too early|was taken from the wrong account]
    [Could|May] I have more time to pay [the bill|what I owe]?
    I don't understand [my bill|the items on the invoice|how you worked out the price]
    What do I [owe|still have to pay] you?
    {amount} [has been taken|went out] from my [account|bank] [and I don't know why|without an explanation]
    [Please bill|Send the invoice to] [my employer|my company] instead of me
    The exchange rate [you used|on my bill] [is odd|looks wrong], I paid more than {amount}
    [Visa|Mastercard|My bank] sent me a [new|replacement] card, how do I [enter it|add it|change the number]?
    [Please explain|What is] the [extra fee|surcharge|second amount] on my [bill|statement]
    """,
    "cancellation": """
    I [want|would like|wish|need] to cancel [my {plan}|{order}|the {plan}]
    [Please|Could you|Can you please] cancel [my {plan}|{order}|the {product} I ordered {when}]
    [cancel my {plan}|cancel order|cancel please|stop my {plan}|close my account|how to cancel]
    How [do|can] I cancel [my {plan}|{order}|before the next period]?
    I don't [want|need] [the {plan}|my {plan}|the {product}] any more, please [cancel it|stop it|cancel]
    Please [stop|end] my {plan} [at the end of {month}|right away|as soon as possible|from next month]
    I [hereby] [cancel|terminate] my {plan} [effective immediately|with effect from {month}]
    [Close|Delete|Remove] my account [for good|permanently|and all my data], please
    I [ordered|bought] the {product} by [mistake|accident|error], please [cancel|stop] the order
    I've [found the {product} cheaper|changed my mind], so please don't [send|ship|process] [it|{order}]
    Is it [still possible|too late] to cancel {order}?
    [Can|Could] you stop {order} before it [ships|leaves the warehouse|is sent]?
    I want to [leave|quit|get out of] my {plan}
    Don't [renew|extend|prolong] my {plan}, [please|I don't need it]
    [Switch|Turn] off [the automatic renewal|auto-renew] of my {plan}
    When [does my {plan} end|is the last day to cancel|can I leave] if I [cancel today|give notice now]?
    [What|How long] is the [notice period|cancellation period|minimum term] of my {plan}?
    I placed {order} twice, [please cancel one|drop the second one]
    My {plan} [is too expensive|isn't worth it] and I [want out|would like to end it]
    I [am moving abroad|lost my job] and [have to|must] [cancel|give up] my {plan}
    I [cancelled|ended] my {plan} on {day}, [please confirm it|but it is still active|but got no confirmation]
    The cancel button [is missing|can't be found|is nowhere], [how do I end|I want to end] my {plan}
    I [just] [ordered|bought] the wrong {product} [an hour ago|by mistake], cancel that, please
    Please take the {product} off {order}, I [don't want|no longer need] it
    I'd like to [end|stop] the free trial [before it becomes paid|today]
    Do I have to pay [a penalty|a fee|anything] if I [cancel|end] [early|before the term is over]?
    I'm [no longer interested in|done with|not continuing] the {plan}
    Please [withdraw|revoke|annul] {order}
    We [decided|have decided] [not to continue|to stop] with your [service|{plan}]
    I'd like to [opt out of|stop getting] the {plan}, [take me off|remove me]
    On second thoughts, I won't be needing [the {product}|it], so cancel [it|the purchase], please
    Is there [any way|still time] to [call back|undo|revoke] [the order I just made|{order}]?
    [Hold|Stop] {order}, I [picked|clicked] the wrong [size|colour|item]
    I [hardly|never] use [my {plan}|the {plan}], so [let's end it|I'd like to stop paying for it]
    [This is my notice|I am giving notice] [for the {plan}|that I am leaving {month}]
    [Please erase|I want you to delete] [my profile|my customer account|everything you have about me]
    How do I [get rid of|say goodbye to|end] [the {plan}|your service]?
    [My son|My husband] [ordered|signed up for] [the {product}|a {plan}] without asking me, please cancel it
    I want [no more deliveries|nothing more sent] of the monthly box [after {month}|from now on]
    [Can|May] I pause or end my {plan} [for {month}|any time]?
    Please make sure that my {plan} [isn't renewed|ends] [in {month}|when the term is up]
    [Too slow, too expensive|You can't deliver in time]: cancel {order}
    The {product} is [no longer needed|not needed any longer], [please drop the order|kindly cancel it]
    My order from [an hour ago|this morning] was a mistake, can you [intercept|kill] it in time?
    The trial [runs out|ends] [in three days|on {day}], I [won't go on|don't want to continue] after that
    I'm [out|leaving], please [finish|wind up] my {plan}
    """,
    "delivery": """
    Where is [my order|my parcel|my package|my {product}|{order}]?
    When [will|does] [my parcel|my new {product}|{order}|the {product}] [arrive|come|be delivered]?
    When can I expect [my {product}|my new {gadget}|my parcel]?
    [where is my order|parcel late|track my order|delivery status|package missing|wrong address]
    My [parcel|package|delivery|order] [has not arrived|hasn't come|did not arrive] [yet|so far|on {day}]
    The {product} [I ordered {when}] [still hasn't arrived|is late|has not been delivered]
    I've been waiting [for two weeks|since {day}|a month] for [the {product}|{order}|my parcel|my new {product}]
    The tracking [number|link] [doesn't show anything|has not changed since {day}|is not found]
    [Can|Could] I [change|correct] the [delivery|shipping] address of {order}?
    I [moved|entered the wrong street], please [send|deliver] [{order}|the {product}] to my [new address|work]
    The [courier|driver|postman] [left|put|dropped] the [parcel|package] [with a neighbour|in the rain]
    [The tracking|Your e-mail] says [it was delivered|delivered on {day}], but I [got nothing|don't have it]
    Do you [deliver|ship|send] to {place}?
    How [long|many days] does [delivery|shipping|the shipment] [take|to {place} take]?
    What does [shipping|delivery] [to {place}] cost?
    Has [{order}|my {product}|the {product}] [been sent|shipped|left the warehouse] [yet|already]?
    Can [the {product}|it|{order}] be delivered [on {day}|in the evening|on a Saturday|to a pick-up point]?
    The [parcel|package|shipment] is stuck [at customs|in {place}|in the sorting centre]
    I was not [home|in] when the [courier|driver] came, [can he come again|where can I pick it up]?
    [Part of|Half of] {order} is missing from the [box|parcel|delivery]
    I [ordered|bought] [two|three] and [only one came|just one has arrived]
    The [delivery|shipment] [was promised|was due] for {day}, and [nobody came|it isn't here]
    Please [deliver|send] [{order}|the {product}] [later|next week], I am [away|travelling]
    I need the {product} [by {day}|for a birthday], [will it be here in time|can you send it express]?
    My [parcel|package|order] [was lost|got lost|seems lost] [in the mail|on the way|by the courier]
    [Do you offer|Is there] [express|overnight|same-day|international] [delivery|shipping]?
    Which [courier|carrier|parcel service] [do you use|brings my parcel]?
    I [never got|haven't received] a tracking number for {order}
    The delivery [date|window] [keeps changing|has been put off again|was moved to next month]
    The courier [didn't ring|went away again|says no one was home], although I [waited all day|was at home]
    My neighbour's parcel came to [me|my house], and mine [went to him|is missing]
    [Any|Is there any] [update|information] on [the whereabouts of {order}|my shipment|when it will come]?
    The [van|courier|truck] can't find my [street|flat], [please call me|use the back entrance]
    [Please leave|Can they leave] the parcel [in the garage|with my neighbour|at the reception]
    I [would rather|want to] collect [the {product}|my parcel] [myself|from a shop|at the post office]
    Can you [hold back|delay|speed up] the [delivery|shipment] [of {order}|]?
    The box [came without|was missing] the {product}, [where is the rest|will it come later]?
    Why is [the delivery|my {product}|{order}] taking so long?
    {order} was [split|sent in two parcels], when does the second [part|half|box] come?
    [Somebody else|A neighbour|The wrong person] [signed for|took] my parcel
    My {product} [went|was shipped] to [my old address|{place}|the wrong city]
    What time [on {day}|today] will the [driver|courier] be here?
    Are there [extra|customs] charges for [sending it|shipping] to {place}?
    [No sign of|I'm still without] [my parcel|the {product}], [and it's been three weeks|although it was sent {when}]
    Could the [driver|courier] [ring the bell|wait a minute|use the lift] instead of [leaving|going away]?
    [Could|Would] you [send|bring] [the parcel|it|the {product}] to [my workplace|a friend|my parents] this time?
    [Two|Three] of the [four|five] [items|parcels] are here, where [are the others|is the rest]?
    """,
    "praise": """
    [Thank you|Thanks] [so much|very much|a lot] for [your help|the great service|the quick reply|everything]
    I [love|really love|adore] [the {product}|my new {product}|your {software}|this {product}]
    [Great|Excellent|Fantastic|Wonderful|Superb] [service|work|product|shop|support][|!| as always]
    [great job|well done|thanks a million|love it|keep it up|awesome|perfect, thank you|excellent]
    The {product} is [fantastic|brilliant|perfect|even better than I hoped|beautiful], [thank you|I love it]
    {person} was [so helpful|really kind|very friendly|wonderful] [on the phone|and solved my problem|]
    I [want|would like|wanted] to thank {person} [for the help|who helped me {when}|for being so kind]
    [I am|I'm|We are] [very|really|extremely] [happy|satisfied|impressed] with [the {product}|your service]
    [My problem|The issue] was solved in [five minutes|no time], [great work|impressive|thank you]
    Your [support|team|customer service] is the best [I have ever had|in the business|around]
    The delivery was [super fast|quicker than promised], [thanks|great]
    The {gadget} works [perfectly|flawlessly|great] [now|again], [thanks to {person}|many thanks]
    I [will|would] [definitely] [recommend you|buy from you again|order again|tell my friends about you]
    [Just a note|I'm writing] to say [thank you|how much I like the {product}|that I am delighted]
    You [made my day|saved my weekend|are the best|are amazing|have a customer for life]
    The [quality|finish|design] of the {product} is [outstanding|excellent|top notch]
    [Hats off|Kudos|Big thanks|Compliments] to {person}
    [Keep up the good work|What a great {software}|What a lovely {product}]!
    I have been a customer for [ten|five] years and [never been disappointed|am always happy]
    My [wife|husband|mother|daughter] [loves|is thrilled with|can't stop using] the {product}
    The new [version|design] of the {software} is [so much better|a pleasure to use|really nice]
    It [arrived early|came well packed] and [looks great|is exactly what I wanted]
    [Everything|It all] went [smoothly|perfectly], from the order to the delivery
    Worth every [penny|cent], I'm [so glad|happy] that I bought the {product}
    [Five|5] stars for [the {product}|your service|{person}]
    I [can't praise|cannot thank] {person} enough
    I'm [grateful for|touched by] [your kindness|how you handled my complaint|the refund that came so quickly]
    It's [rare|refreshing] to find [such good service|people who really help|a {software} that simply works]
    Please tell {person} that [I am very grateful|the advice was spot on|they did a great job]
    [Nice|Good|Lovely] [people|staff], [good|fair] prices, [happy customer|highly recommended]
    [Brilliant|Impressive|Marvellous], {person} [had it fixed within minutes|answered all my questions]
    [So|I'm so] [glad|pleased|lucky] I [found you|came across your shop|chose the {product}]
    [We|I] [couldn't|could not] have asked for [better help|nicer people|more]
    You [went above and beyond|really know your job|have outdone yourselves]
    [10 out of 10|Top marks|A+|Two thumbs up] [for the {product}|for {person}|, would buy again]
    [I've|I have] never had [such a good|a better] {product}
    Not a [complaint|question], [only|just] [a big thank you|a compliment]: the {product} is [lovely|great]
    [Everybody here|My whole family|Our office] [enjoys|is crazy about] the {product}
    {person} deserves [a raise|a medal|a big hug]
    [I was|We were] [pleasantly surprised|positively astonished] by [the service|the {product}]
    Problem solved, [you're wonderful|what a service|thanks to {person}]
    [It's|The {product} is] a [dream|delight|real beauty]
    The [wrapping|handwritten card] was [such a nice touch|charming], [thank you|it made me smile]
    I'll [come again|shop here again|stay with you], [for sure|that's a promise]
    [You get|I gave you] [a great review|full marks|the best rating] [from me|online|]
    It's [just|simply] [super|lovely|great], [bravo|congratulations|I'm thrilled]
    """,
    "product_question": """
    [Does|Do] the {product} come in [{colour}|other colours|a bigger size|size 42]?
    Is the {product} [available|sold] in [{colour}|a smaller size|another colour|your store]?
    When will the {product} be [back in stock|available again|in the shop]?
    [is it in stock|what size is it|product question|does it come in {colour}|how big is the {product}]
    Is the {colour} {product} [still|] in stock?
    What [are the dimensions|is the size|is the weight|is the power] of the {product}?
    How [big|wide|tall|heavy|loud|long] is the {product}?
    What [material|fabric|wood] is the {product} made [of|from]?
    Is the {product} [compatible|usable] with [my {gadget}|a {gadget}|an iPhone|Windows|older models]?
    Does the {gadget} work with [Android|Alexa|a Mac|5 GHz wifi|rechargeable batteries]?
    What is the difference between the [{colour} and the grey|old and the new|two models of the] {product}?
    Which {product} [would you recommend|is best] for [beginners|a small flat|travelling|children]?
    Can I [wash|use|clean] the {product} [in the machine|outdoors|in the rain|with hot water]?
    Is the {product} [safe|suitable|made] for [children|sensitive skin|vegans|outdoor use|left-handed people]?
    How long is the [warranty|guarantee] [on|of|for] the {product}?
    Does the {product} [have|come with] a [warranty|manual|cable|bag|spare battery|cover]?
    What is included [with the {product}|in the box|in the set]?
    How long does the battery of the {gadget} last?
    Do you [sell|stock|have|carry] [spare parts|replacement filters|accessories|a case] for the {product}?
    I'm [thinking of buying|interested in|looking at] the {product}, [does it fold|is it waterproof]?
    Is the {product} [waterproof|heat resistant|machine washable|foldable|made in Europe|recyclable]?
    Which size [should I take|do I need] [if I am 180 cm tall|for a double bed|if I usually wear medium]?
    Before I [buy|order] the {product}, [can you tell me|I'd like to know] how much it weighs
    Do you [also|] [have|sell] the {product} [in {colour}|for children|without logo]?
    Is there a [newer|cheaper|lighter|larger] [model|version] of the {product}?
    Does the {product} contain [nuts|leather|plastic|latex|gluten]?
    How many [people|litres|books|programs|settings] does the {product} [hold|have|take]?
    Will the {product} fit [in a small car|a 15 inch laptop|a standard window|my kitchen]?
    What [features|functions] does the [premium|basic|family] [plan|package|account] [have|include|offer]?
    Can I [see|try] the {product} in [a shop|your showroom] before I buy it?
    I [need|am looking for] a {product} [for my daughter|that lasts], what [do you suggest|do you have]?
    [Would|Will] the {product} [stand|survive] [rain|frost|heavy use|a fall]?
    How [many|long are the] [pockets|cables|colours|sizes] [are there|on the {product}]?
    Is the {product} [real leather|fair trade|certified|dishwasher safe|oven proof|battery powered]?
    Where is the {product} [made|produced|manufactured]?
    How much [power|memory|storage|space] does the {gadget} [have|use|need]?
    [Do I need|Must I buy] [a cable|an adapter|tools|software] [for the {gadget}|to set up the {product}]?
    [Can|Could] the {product} be [engraved|personalised|mounted on a wall|made to measure]?
    What's the [maximum load|smallest size|running time] of the {product}?
    Do you [plan|expect] [a new model|more {product} stock|a sale] [before {month}|soon]?
    [Can|Does] the {gadget} [speak Spanish|play FLAC files|run without the internet|be used abroad]?
    Would the {colour} {product} go with [a {colour} sofa|a small room|formal clothes]?
    [Tell me more|Could you tell me more] about the {product}: [what is it made of|how big is it]?
    I [can't decide|am torn] between the {product} and the {gadget}, [what's your advice|which is better]?
    [Can|Could] [a child|a beginner|one person] [use|assemble|carry] the {product}?
    """,
    "refund": """
    I [want|would like|demand|request] a refund [for {order}|for the {product}|of {amount}|]
    [refund please|refund request|return item|money back|exchange size|how to return]
    How [do|can] I [return|send back|give back] the {product}?
    I [want|would like|need] to [return|send back|exchange] [the {product}|{order}|what I bought {when}]
    The {product} [is broken|is damaged|arrived broken], I [want my money back|would like a refund]
    The {product} [doesn't fit|is too small|is too big|is not my taste], [can I return it|I want to return it]
    When [will|do] I [get|receive] my [money|refund] [back|for the {product}|]?
    I [returned|sent back] the {product} [on {day}|three weeks ago] and still have no refund
    [Please|Could you] [send|e-mail] me a return [label|form|slip] [for the {product}|]
    What is your return policy [for the {product}|]?
    How [long|many days] do I have to [return|send back] [the {product}|something|an item]?
    Can I [exchange|swap|trade] the {product} for [a bigger size|a {colour} one|another model]?
    You sent [me|] the wrong {product}, [I want to return it|how do I send it back|please exchange it]
    Please [refund|reimburse|pay back] the {amount} [for the {product}|to my card|for {order}]
    My refund [is too low|has not arrived|is missing|was only partial|is {amount} short]
    I'm [not satisfied|unhappy|disappointed] with the {product} and [want|expect] my money back
    Is return shipping free [for the {product}|]?
    [Do I have to|Must I] pay for [the return|sending the {product} back]?
    Can I return [a gift|a sale item|an opened {product}|the {product} without the receipt]?
    I lost the receipt, can I still [return|exchange] the {product}?
    The {colour} {product} looks [nothing like|different from] the photo, so I'm sending it back
    I was [promised|told I would get] a refund on {day}, [where is it|but got nothing]
    The {product} [came with a scratch|has a hole], can I get [a replacement|part of my money back]?
    I [got|received] the {product} [as a gift|in the wrong colour] and would like to [exchange|return] it
    I [cancelled {order}|sent everything back], so [when do I get my money|where is my refund]?
    Can I bring the {product} back to [a store|one of your shops]?
    Give me [my money|the {amount}] back
    Could I have store credit [instead of a refund|for the returned {product}]?
    Where do I [send|post|drop off] [the {product}|things] that I want to return?
    The {product} broke after [a week|two days|one wash], [I want a refund|I want compensation]
    I [sent|mailed] [the {product}|everything] back [{when}|a month ago], when will you pay me back?
    The {product} [isn't as described|looks cheap], [take it back|I don't want to keep it]
    [Can you|Please] collect the {product} [from my house|], I [don't want to keep it|am returning it]
    I'd [prefer|rather have] a different size [instead of|than] the {product} [you sent|I got]
    The {product} is [the wrong size|too tight|too large], please [swap it|exchange it]
    [Until when|By what date] can [I|we] [return|hand back] [the {product}|{order}]?
    [What happens|What do I do] with the [faulty|broken] {product}, do I get [a new one|my money back]?
    [Am I entitled to|Do I get] [a full refund|compensation|my money back] [for the {product}|if I return it]?
    The [shop|store] [won't|refused to] take [the {product}|it] back
    [It's|The {product} is] [rubbish|useless|awful], [give me back what I paid|I want every penny back]
    How long [does a refund take|until the money is back in my account|do refunds need]?
    You [refunded|paid back|returned] [the wrong sum|only a part|less than I paid]
    I [no longer have|threw away] the [box|packaging], can the {product} [still|] [go back|be returned]?
    The {product} [is cracked|came cracked|fell apart], please [replace it|send another one]
    Could you take [the {product}|it] back [and pay me the {amount}|for a refund]?
    """,
    "technical_problem": """
    The {software} [crashes|freezes|hangs|stops] [when I open it|all the time|after the update|on my tablet]
    My [new|] {gadget} [doesn't work|stopped working|is not working] [since {day}|any more|properly]
    My {gadget} [won't turn on|does not start|is dead|switches itself off]
    [app crashes|error message|{gadget} not working|{software} down|no connection|it keeps freezing]
    I [get|see|keep getting] [an error message|error 404|error code E12] [on the {software}|on my {gadget}|]
    The {gadget} [doesn't connect|won't connect] to [the wifi|my phone|Bluetooth|the network]
    The {software} is [very slow|terribly slow|not loading|down|not responding] [today|since {day}|]
    After the [update|upgrade|last version], the {gadget} [doesn't work|restarts all the time]
    I can't [install|update|download|open] the [{software}|latest version|driver]
    The [screen|display] of my {gadget} [stays black|is frozen|flickers|shows lines]
    The [sound|microphone|camera|touch screen] [of my {gadget}] [doesn't work|cuts out|is broken|fails]
    The battery of my {gadget} [drains quickly|won't charge|dies after an hour|gets very hot]
    [Pictures|Files|Messages|Reports] [don't load|are not shown|won't upload] [in the {software}|]
    My data [isn't|is not] [synchronised|saved|shown] [in the {software}|between my devices]
    The [button|link|menu|search] [on the {software}] [does nothing|doesn't react|is broken|gives no results]
    How do I fix [error 31|the error on my {gadget}|this bug]?
    There is a bug in the {software}: [it deletes my entries|it shows the wrong date|the list is empty]
    The {gadget} [blinks red|shows a red light|beeps all the time], [what can I do|what does that mean]?
    I tried to [restart|reset|reinstall] [it|the {gadget}|the {software}], but it [still fails|doesn't help]
    Your {software} [is broken|doesn't work] in [Firefox|Chrome|Safari|landscape mode]
    [Videos|Songs|Calls] [keep stuttering|stop after a few seconds|have no sound] on my {gadget}
    The [page|form|cart] [won't load|keeps spinning|goes blank] when I [click next|submit it]
    The {gadget} [can't be found|isn't detected] by my [computer|phone|laptop]
    I don't get [any notifications|push messages] from the {software} [since the update|any more]
    The {software} [gives|shows|throws] [error 503|a server error] when I [export|save|upload a file]
    My {gadget} [is stuck on|hangs at] [the logo|the start screen|40 percent]
    The [firmware|software] update [failed|was interrupted] and now my {gadget} is [dead|unusable]
    [Help|Please help], my {gadget} [overheats|leaks|smells of burning|has gone blank]
    The {software} and my {gadget} [don't sync|no longer talk to each other|show different numbers]
    The [remote control|sensor|motor] of the {gadget} [does not respond|is acting up|jams]
    [It|The {gadget}|The thing] [worked {when}|was fine {when}], now it's [completely dead|not doing anything]
    [Whenever|Each time] I [tap|click on|choose] [send|export|settings], the {software} [quits|hangs]
    [Nothing|Not a thing] [appears|loads|moves] [on the screen|in the {software}|when I start the {gadget}]
    The {gadget} [is so hot|got so slow|is so loud] that I can't use it
    The {software} [loses|forgets|mixes up] my [settings|entries|photos]
    [I can't|It's impossible to] [upload|print|save] [anything|a file] [with the {gadget}|in the {software}|]
    The {gadget} [disconnects|drops out|reboots] [every few minutes|at random|all night]
    [Why is|What's wrong with] [the {software}|my {gadget}], it [won't react|takes ages|is acting strangely]
    The [setup|installation] [stops|fails] [at 80 percent|with an error|half way]
    [Why is everything|Everything is] so [slow|jerky|laggy] [in the {software}|on my {gadget}|today]
    The [text|picture|display] is [garbled|upside down|blurred] [on the {software}|on my {gadget}]
    [Bluetooth|Wifi|GPS|The timer] on my {gadget} [is broken|has gone mad|never works]
    I [need|want] technical help with my {gadget}, it [won't|doesn't] [connect|start|react]
    The {software} [shows|displays] [somebody else's data|wrong results|an empty list|old data]
    The search [box|function] in the {software} [finds nothing|is broken]
    [It|The {software}|My {gadget}] [crashed|froze|failed|broke down] [again|once more|for the third time]
    """,
}
